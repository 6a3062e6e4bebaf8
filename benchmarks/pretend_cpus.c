// Preloaded into a program, makes the machine claim PRETEND_CPUS CPUs: to Python, to the C++ runtime, OpenMP and OpenBLAS.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int claimed(void) {
    const char *text = getenv("PRETEND_CPUS");
    return text ? atoi(text) : 64;
}

int get_nprocs(void) { return claimed(); }
int get_nprocs_conf(void) { return claimed(); }

long sysconf(int name) {
    if (name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF) return claimed();
    return ((long (*)(int))dlsym(RTLD_NEXT, "sysconf"))(name);
}

static int every_one(size_t size, cpu_set_t *set) {
    memset(set, 0, size);
    for (int cpu = 0; cpu < claimed(); cpu++) CPU_SET_S(cpu, size, set);
    return 0;
}

int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set) { return every_one(size, set); }
int pthread_getaffinity_np(pthread_t thread, size_t size, cpu_set_t *set) { return every_one(size, set); }
int sched_setaffinity(pid_t pid, size_t size, const cpu_set_t *set) { return 0; }
int pthread_setaffinity_np(pthread_t thread, size_t size, const cpu_set_t *set) { return 0; }
