"""Small gaze files as each tracker writes them: a reader looks at one place of a wide image, then at one of a tall image.

Every maker takes a folder and returns the path to read. The images are l (120 x 60) and p (60 x 120); the places are
`PLACES`, shares from the top left. On a screen of 1920 x 1080 both are as large as fits, in its middle, unless the maker
says where else they stood.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

SIZES = {"l": (60, 120), "p": (120, 60)}  # (height, width)
PLACES = {"l": (0.25, 0.75), "p": (0.6, 0.2)}
SCREEN = (1920, 1080)
DWELL = 400  # ms on each image
SCREEN_TOML = "[screen]\nwidth_px = 1920\nheight_px = 1080\nwidth_cm = 52.7\nheight_cm = 29.6\ndistance_cm = 60.0\n"


def area(stem: str) -> tuple[float, float, float, float]:
    """Left, top, width and height of an image as large as fits the screen."""
    height, width = SIZES[stem]
    scale = min(SCREEN[0] / width, SCREEN[1] / height)
    return (SCREEN[0] - width * scale) / 2, (SCREEN[1] - height * scale) / 2, width * scale, height * scale


def on_screen(stem: str, place: tuple[float, float, float, float] | None = None) -> tuple[float, float]:
    """The screen pixel of an image's place."""
    left, top, width, height = place or area(stem)
    return left + PLACES[stem][0] * width, top + PLACES[stem][1] * height


def on_image(stem: str, scale: float = 1) -> tuple[float, float]:
    """The pixel of an image's place, of an image `scale` times as large."""
    height, width = SIZES[stem]
    return PLACES[stem][0] * width * scale, PLACES[stem][1] * height * scale


def samples(rate: float, start: float = 1000) -> Iterable[tuple[str, float, float, float]]:
    """(image, ms, jitter x, jitter y in pixels) of both looks; the jitter has the median 0."""
    for i, stem in enumerate(SIZES):
        for n in range(round(DWELL * rate / 1000)):
            angle = 2.4 * n
            yield stem, start + 2000 * i + n * 1000 / rate, 1.5 * np.cos(angle), 1.5 * np.sin(angle)


def write(path: Path, lines: Iterable[str], encoding: str = "utf-8", end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


def mapping(folder: Path, files: str, more: str = "") -> Path:
    return write(folder / "gaze.toml", [f'files = ["{files}"]', more, SCREEN_TOML])


def gazemedseg(folder: Path) -> Path:
    rows = [f"{s}.png,{i},{x},{y},200,{250 * i}" for s, (x, y) in PLACES.items() for i in (1, 2)]
    header = "IMAGE,CURRENT_FIX_INDEX,CURRENT_FIX_X,CURRENT_FIX_Y,CURRENT_FIX_DURATION,CURRENT_FIX_START"
    return write(folder / "fixations.csv", [header, *rows])


def eyelink_fixations(folder: Path) -> Path:
    """Data Viewer's fixation report: pixels, dots, and a trial variable that names the image."""
    names = ("RECORDING_SESSION_LABEL", "TRIAL_INDEX", "picture", "CURRENT_FIX_INDEX", "CURRENT_FIX_X", "CURRENT_FIX_Y")
    rows = ["\t".join((*names, "CURRENT_FIX_DURATION", "CURRENT_FIX_START"))]
    for trial, stem in enumerate(SIZES, start=1):
        x, y = on_screen(stem)
        rows += [f"s1\t{trial}\timg/{stem}.jpg\t{i}\t{x:.1f}\t{y:.1f}\t210\t{300 * i}" for i in (1, 2, 3)]
        rows.append(f"s1\t{trial}\timg/{stem}.jpg\t4\t.\t.\t150\t1300")
    write(folder / "report.txt", rows, "utf-16")
    return mapping(folder, "report.txt")


def eyelink_samples(folder: Path) -> Path:
    names = "RECORDING_SESSION_LABEL\tTRIAL_INDEX\tTIMESTAMP\tLEFT_GAZE_X\tLEFT_GAZE_Y\tRIGHT_GAZE_X\tRIGHT_GAZE_Y"
    rows = [names + "\tLEFT_IN_BLINK\tRIGHT_IN_BLINK\tIMAGE"]
    for n, (stem, time, dx, dy) in enumerate(samples(500)):
        x, y = on_screen(stem)
        left = ".\t.\t1" if n % 9 == 0 else f"{x + dx - 8:.1f}\t{y + dy:.1f}\t0"
        gaze = left.rpartition("\t")
        right = f"{x + dx + (0 if n % 9 == 0 else 8):.1f}\t{y + dy:.1f}"
        rows.append(f"s1\t1\t{time:.0f}\t{gaze[0]}\t{right}\t{gaze[2]}\t0\t{stem}.png")
    write(folder / "samples.tsv", rows)
    return mapping(folder, "samples.tsv")


def _asc(folder: Path, body: Iterable[str], name: str = "s1.asc") -> Path:
    head = ["** CONVERTED FROM s1.edf using edfapi 4.2", "** VERSION: EYELINK II 1", "MSG\t1000 DISPLAY_COORDS 0 0 1919 1079"]
    return write(folder / name, [*head, *body])


def eyelink_asc_events(folder: Path) -> Path:
    """EFIX events; the wide image is loaded at a place and size, the tall one is named by a trial variable."""
    x, y = on_screen("l", (300, 200, 600, 300))
    u, v = on_screen("p")
    return _asc(
        folder,
        [
            "MSG\t1001 TRIALID 1",
            "START\t1002 \tLEFT\tRIGHT\tSAMPLES\tEVENTS",
            "MSG\t1003 -2 !V IMGLOAD CENTER images/l.png 600 350 600 300",
            "SFIX L   1010",
            f"EFIX L   1010\t1300\t291\t{x:7.1f}\t{y:7.1f}\t   784",
            f"EFIX R   1012\t1304\t293\t{x + 40:7.1f}\t{y:7.1f}\t   784",
            f"EFIX L   1400\t1600\t201\t{x:7.1f}\t{y:7.1f}\t   784",
            "END\t1700 \tSAMPLES\tEVENTS",
            "MSG\t1800 TRIALID 2",
            "START\t1801 \tLEFT\tSAMPLES\tEVENTS",
            f"EFIX L   1810\t2100\t291\t{u:7.1f}\t{v:7.1f}\t   784",
            "MSG\t2200 !V TRIAL_VAR condition easy",
            "MSG\t2200 !V TRIAL_VAR picture p.png",
            "MSG\t2201 TRIAL_RESULT 0",
        ],
    )


def eyelink_asc_samples(folder: Path) -> Path:
    lines, last = [], ""
    for n, (stem, time, dx, dy) in enumerate(samples(1000, 2000)):
        x, y = on_screen(stem)
        if stem != last:
            lines += [f"MSG\t{time:.0f} TRIALID {stem}", f"START\t{time:.0f} \tLEFT\tRIGHT\tSAMPLES\tEVENTS"]
            lines += ["SAMPLES\tGAZE\tLEFT\tRIGHT\tRATE\t1000.00", f"MSG\t{time:.0f} !V TRIAL_VAR image {stem}.png"]
            last = stem
        left = "   .\t   .\t    0.0" if n % 7 == 0 else f"{x + dx - 6:7.1f}\t{y + dy:7.1f}\t  784.0"
        right = x + dx + (0 if n % 7 == 0 else 6)
        lines.append(f"{time:.0f}\t{left}\t{right:7.1f}\t{y + dy:7.1f}\t  790.0\t.....")
    return _asc(folder, lines)


def _tobii(folder: Path, names: dict[str, str], number: Callable[[float], str], scale: float, more: list[str]) -> Path:
    rows = ["\t".join(names)]
    for stem, time, dx, dy in samples(60):
        for reader, shift in (("P1", 0.0), ("P2", 0.5)):
            x, y = on_screen(stem)
            known = {
                "time": f"{time * scale + shift:.0f}",
                "sensor": "Eye Tracker",
                "participant": reader,
                "recording": f"Recording {reader}",
                "lx": number(x + dx - 3),
                "rx": number(x + dx + 3),
                "ly": number(y + dy),
                "ry": number(y + dy),
                "ok": "Valid",
                "image": f"{stem}.png",
                "width": "1920",
                "height": "1080",
            }
            rows.append("\t".join(known[kind] for kind in names.values()))
    rows[2:2] = more
    return write(folder / "tobii.tsv", rows, "utf-8-sig", "\r\n")


def tobii_pro_lab(folder: Path) -> Path:
    """Old headers, microseconds, decimal commas, two recordings and the mouse's rows."""
    names = {
        "Recording timestamp": "time",
        "Sensor": "sensor",
        "Participant name": "participant",
        "Recording name": "recording",
        "Recording resolution width": "width",
        "Recording resolution height": "height",
        "Gaze point left X": "lx",
        "Gaze point left Y": "ly",
        "Gaze point right X": "rx",
        "Gaze point right Y": "ry",
        "Validity left": "ok",
        "Validity right": "ok",
        "Presented Media name": "image",
    }
    mouse = "1000050\tMouse\tP1\tRecording P1\t1920\t1080\t5\t5\t5\t5\tValid\tValid\tl.png"
    event = "1000000\t\tP1\tRecording P1\t1920\t1080\t\t\t\t\t\t\tl.png"
    return _tobii(folder, names, lambda v: f"{v:.1f}".replace(".", ","), 1000, [mouse, event])


def tobii_pro_lab_units(folder: Path) -> Path:
    """Newer headers with units in brackets, milliseconds."""
    names = {
        "Recording timestamp [ms]": "time",
        "Sensor": "sensor",
        "Participant name": "participant",
        "Recording name": "recording",
        "Recording resolution height [px]": "height",
        "Recording resolution width [px]": "width",
        "Gaze point left X [DACS px]": "lx",
        "Gaze point left Y [DACS px]": "ly",
        "Gaze point right X [DACS px]": "rx",
        "Gaze point right Y [DACS px]": "ry",
        "Validity left": "ok",
        "Validity right": "ok",
        "Presented Stimulus name": "image",
    }
    return _tobii(folder, names, lambda v: f"{v:.1f}", 1, [])


def tobii_media_place(folder: Path) -> Path:
    """Where the medium stood is in the file: pixels need no guess."""
    names = (
        "Recording timestamp [μs]",
        "Participant name",
        "Gaze point X [DACS px]",
        "Gaze point Y [DACS px]",
        "Presented Media name",
        "Presented Media position X [DACS px]",
        "Presented Media position Y [DACS px]",
        "Presented Media width [px]",
        "Presented Media height [px]",
    )
    rows, places = ["\t".join(names)], {"l": (100, 50, 480, 240), "p": (900, 80, 300, 600)}
    for stem, time, dx, dy in samples(120):
        x, y = on_screen(stem, places[stem])
        rows.append(f"{time * 1000:.0f}\tP1\t{x + dx:.2f}\t{y + dy:.2f}\t{stem}.png\t" + "\t".join(map(str, places[stem])))
    return write(folder / "export.tsv", rows)


def tobii_studio(folder: Path) -> Path:
    names = (
        "RecordingTimestamp\tParticipantName\tMediaName\tRecordingResolution\tGazePointLeftX (ADCSpx)\tGazePointLeftY (ADCSpx)"
    )
    names += "\tGazePointRightX (ADCSpx)\tGazePointRightY (ADCSpx)\tValidityLeft\tValidityRight"
    rows = [names]
    for n, (stem, time, dx, dy) in enumerate(samples(60)):
        x, y = on_screen(stem)
        lost = n % 5 == 0  # the left eye is lost: its validity is 4
        left = "-1\t-1" if lost else f"{x + dx - 2:.0f}\t{y + dy:.0f}"
        right = f"{x + dx + (0 if lost else 2):.0f}\t{y + dy:.0f}"
        rows.append(f"{time:.0f}\tP1\t{stem}.png\t1920 x 1080\t{left}\t{right}\t{4 if lost else 0}\t0")
    return write(folder / "studio.tsv", rows)


def pupil_gaze(folder: Path) -> Path:
    """A surface an image, counted upwards; gaze of low confidence lies elsewhere."""
    for n, stem in enumerate(SIZES):
        rows = ["world_timestamp,world_index,gaze_timestamp,x_norm,y_norm,x_scaled,y_scaled,on_surf,confidence"]
        x, y = PLACES[stem]
        for i, (_, time, dx, dy) in enumerate(row for row in samples(120) if row[0] == stem):
            u, v = (0.9, 0.1) if i % 10 == 3 else (x + dx / 2000, 1 - y + dy / 2000)
            place = f"{u:.5f},{v:.5f}"
            rows.append(f"{time / 1000:.6f},{n},{time / 1000:.6f},{place},{place},True,{0.2 if i % 10 == 3 else 0.97}")
        write(folder / "surfaces" / f"gaze_positions_on_surface_{stem}.csv", rows)
    return folder / "surfaces"


def pupil_fixations(folder: Path) -> Path:
    """One row a frame of the scene camera: a fixation counts once."""
    for stem, (x, y) in PLACES.items():
        rows = ["world_timestamp,world_index,fixation_id,start_timestamp,duration,dispersion,norm_pos_x,norm_pos_y"]
        rows[0] += ",x_scaled,y_scaled,on_surf"
        for fixation in (1, 2, 3):
            start = 100 + fixation
            rows += [
                f"{start + f / 30:.4f},{f},{fixation},{start}.0,250.0,1.1,{x + d},{1 - y},{x},{1 - y},{on}"
                for f, d, on in ((0, -0.01, True), (1, 0.01, True), (2, 0.3, False))
            ]
        write(folder / "surfaces" / f"fixations_on_surface_{stem}.csv", rows)
    return folder / "surfaces"


def neon_marker_mapper(folder: Path) -> Path:
    for stem, (x, y) in PLACES.items():
        rows = ["section id,recording id,timestamp [ns],gaze detected on surface,gaze position on surface x [normalized]"]
        rows[0] += ",gaze position on surface y [normalized],fixation id,blink id"
        for _, time, dx, dy in (row for row in samples(200) if row[0] == stem):
            nanoseconds = 1_700_000_000_000_000_000 + round(time * 1e6)
            rows.append(f"a,b,{nanoseconds},True,{x + dx / 2000:.5f},{y + dy / 2000:.5f},1,")
        write(folder / stem / "gaze.csv", rows)
    return folder


def neon_reference_image(folder: Path) -> Path:
    rows = ["section id,recording id,fixation id,start timestamp [ns],end timestamp [ns],duration [ms]"]
    rows[0] += ",fixation detected in reference image,fixation x [px],fixation y [px]"
    for stem in SIZES:
        x, y = on_image(stem)
        lines = [f"a,b,{i},{10**18 + i * 10**9},{10**18 + i * 10**9 + 300000000},300,True,{x},{y}" for i in (1, 2)]
        lines.append(f"a,b,3,{10**18 + 3 * 10**9},{10**18 + 4 * 10**9},1000,False,,")
        write(folder / stem / "fixations.csv", [*rows, *lines])
    return folder


def _gazepoint_header(date: str) -> str:
    names = f"MEDIA_ID,MEDIA_NAME,CNT,TIME({date}),TIMETICK(f=10000000),FPOGX,FPOGY,FPOGS,FPOGD,FPOGID,FPOGV"
    return names + ",BPOGX,BPOGY,BPOGV,CX,CY,AOI,"


def gazepoint(folder: Path) -> Path:
    """Two users with their own dates, and for each both files; a lost sample is not valid."""
    for user, date in enumerate(("2021/07/13 09:21:09.801", "2021/07/14 10:00:00.000")):
        rows, fixations = [_gazepoint_header(date)], [_gazepoint_header(date)]
        for n, (stem, time, dx, dy) in enumerate(samples(60, 0)):
            x, y = on_screen(stem)
            u, v, ok = (x + dx) / 1920, (y + dy) / 1080, 1
            if n % 8 == 2:
                u, v, ok = 0.05, 0.9, 0
            second = time / 1000
            fixed = f"{x / 1920:.5f},{y / 1080:.5f},{2 * list(SIZES).index(stem):.5f},{second % 2:.5f},{stem == 'p':d},1"
            rows.append(f"{stem == 'p':d},{stem},{n},{second:.5f},0,{fixed},{u:.5f},{v:.5f},{ok},,,,")
        for n, stem in enumerate(SIZES):
            x, y = on_screen(stem)
            fixed = f"{x / 1920:.5f},{y / 1080:.5f},{2 * n:.5f},0.40000,{n},1"
            fixations.append(f"{n},{stem},{n},{2 * n + 0.4:.5f},0,{fixed},{x / 1920:.5f},{y / 1080:.5f},1,,,,")
        write(folder / "raw" / f"User {user}_all_gaze.csv", rows)
        write(folder / "raw" / f"User {user}_fixations.csv", fixations)
    return mapping(folder, "raw/*.csv")


def gazepoint_samples(folder: Path) -> Path:
    gazepoint(folder)
    for file in (folder / "raw").glob("*_fixations.csv"):
        file.unlink()
    return folder / "gaze.toml"


def eye_gaze_dataset(folder: Path) -> Path:
    rows = ["SESSION_ID,MEDIA_ID,DICOM_ID,CNT,Time (in secs),TIMETICK(f=10000000),FPOGX,FPOGY,FPOGS,FPOGD,FPOGID,FPOGV"]
    rows[0] += ",BPOGX,BPOGY,BPOGV,X_ORIGINAL,Y_ORIGINAL"
    for n, stem in enumerate(SIZES):
        x, y = on_image(stem)
        rows += [f"1,{n},{stem},{i},{i / 2},0,0.4,0.4,{i / 2},0.3,{i},1,0.4,0.4,1,{x},{y}" for i in (1, 2)]
    return write(folder / "fixations.csv", rows)


def smi(folder: Path) -> Path:
    """The header says the whole screen; messages name the images, and a lost eye is 0 0."""
    rows = [
        "## [BeGaze]",
        "## Sample Rate:\t250",
        "## Calibration Area:\t1920\t1080",
        "## Stimulus Dimension [mm]:\t527\t296",
        "## Head Distance [mm]:\t600",
        "## Subject:\tS07",
        "Time\tType\tTrial\tL POR X [px]\tL POR Y [px]\tR POR X [px]\tR POR Y [px]",
    ]
    last = ""
    for n, (stem, time, dx, dy) in enumerate(samples(250)):
        x, y = on_screen(stem)
        if stem != last:
            rows.append(f"{time * 1000:.0f}\tMSG\t1\t# Message: {stem}.png")
            last = stem
        left = "0.00\t0.00" if n % 6 == 0 else f"{x + dx - 4:.2f}\t{y + dy:.2f}"
        rows.append(f"{time * 1000:.0f}\tSMP\t1\t{left}\t{x + dx + (0 if n % 6 == 0 else 4):.2f}\t{y + dy:.2f}")
    return write(folder / "smi.txt", rows)


def smi_events(folder: Path) -> Path:
    names = "Trial\tStimulus\tParticipant\tCategory\tEye L/R\tEvent Start Trial Time [ms]\tEvent Duration [ms]"
    rows = [names + "\tFixation Position X [px]\tFixation Position Y [px]"]
    for stem in SIZES:
        x, y = on_screen(stem)
        rows += [f"T1\t{stem}.png\tS07\tFixation\tRight\t{300 * i}\t250\t{x:.1f}\t{y:.1f}" for i in (1, 2)]
        rows.append(f"T1\t{stem}.png\tS07\tSaccade\tRight\t560\t30\t-\t-")
    write(folder / "events.txt", rows)
    return mapping(folder, "events.txt")


def bids(folder: Path) -> Path:
    """A compressed table without a header, its sidecar, the screen in metres, the images in the events; one eye of two."""
    stem = "sub-01_task-look_recording-eye1_physio"
    lines = [f"{t:.0f}\tn/a\tn/a\t0" for t in range(900, 1000, 4)]
    for name, time, dx, dy in samples(250):
        x, y = on_screen(name)
        lines.append(f"{time:.0f}\t{x + dx:.2f}\t{y + dy:.2f}\t3000")
    for eye in (1, 2):
        packed = folder / f"{stem.replace('eye1', f'eye{eye}')}.tsv.gz"
        packed.parent.mkdir(parents=True, exist_ok=True)
        packed.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))
        said = {"Columns": ["timestamp", "x_coordinate", "y_coordinate", "pupil_size"], "PhysioType": "eyetrack"}
        said |= {"RecordedEye": "left", "SamplingFrequency": 250, "StartTime": -0.1, "SampleCoordinateSystem": "gaze-on-screen"}
        said |= {"timestamp": {"Units": "ms"}, "x_coordinate": {"Units": "pixel"}}
        packed.with_name(packed.name.replace(".tsv.gz", ".json")).write_text(json.dumps(said))
    screen = {
        "ScreenDistance": 0.6,
        "ScreenSize": [0.527, 0.296],
        "ScreenResolution": [1920, 1080],
        "ScreenOrigin": ["top", "left"],
    }
    (folder / "task-look_events.json").write_text(json.dumps({"StimulusPresentation": screen}))
    events = ["onset\tduration\ttrial_type\tstim_file", "0.0\t0.5\tlook\timages/l.png", "2.0\t0.5\tlook\timages/p.png"]
    write(folder / "sub-01_task-look_events.tsv", events)
    return folder


def reflacx(folder: Path) -> Path:
    """A folder a reading, pixels of an X-ray eight times as large, zoomed into from the second fixation on."""
    top = "timestamp_start_fixation,timestamp_end_fixation,x_position,y_position,pupil_area_normalized"
    top = "fixation_id," + top + ",xmin_shown_from_image,ymin_shown_from_image,xmax_shown_from_image,ymax_shown_from_image"
    meta = ["id,split,eye_tracking_data_discarded,image,dicom_id,image_size_x,image_size_y"]
    for n, stem in enumerate(SIZES):
        (x, y), (height, width) = on_image(stem, 8), SIZES[stem]
        rows = [
            f"0,0.1,0.4,{x},{y},1.0,0,0,{8 * width},{8 * height}",
            f"1,0.5,0.9,{x},{y},1.0,{x - 50},{y - 40},{x + 50},{y + 40}",
        ]
        write(folder / "main_data" / f"P10{n}R000001" / "fixations.csv", [top, *rows])
        meta.append(f"P10{n}R000001,train,False,files/p10/{stem}.dcm,{stem},{8 * width},{8 * height}")
    write(folder / "main_data" / "metadata_phase_1.csv", meta)
    return folder / "main_data"


def _trials(places: dict[str, tuple[float, float, float, float]]) -> list[dict[str, object]]:
    trials: list[dict[str, object]] = [{"trial_type": "browser-check", "width": 1440, "height": 900}]
    for n, (stem, (left, top, width, height)) in enumerate(places.items()):
        x, y = on_screen(stem, (left, top, width, height))
        gaze = [{"x": x + dx, "y": y + dy, "t": t} for s, t, dx, dy in samples(30) if s == stem]
        box = {"x": left, "y": top, "left": left, "top": top, "width": width, "height": height}
        trial = {"trial_type": "image-keyboard-response", "trial_index": n, "stimulus": f"img/{stem}.png", "subject": "w1"}
        trials.append(trial | {"webgazer_data": gaze, "webgazer_targets": {"#jspsych-image-keyboard-response-stimulus": box}})
    return trials


WEB_PLACES = {"l": (200.0, 100.0, 800.0, 400.0), "p": (400.0, 20.0, 420.0, 840.0)}


def webgazer(folder: Path) -> Path:
    path = folder / "w1.json"
    path.write_text(json.dumps(_trials(WEB_PLACES)))
    return path


def webgazer_csv(folder: Path) -> Path:
    """jsPsych's CSV: cells in quotation marks that hold JSON."""
    names = ("trial_type", "trial_index", "stimulus", "subject", "webgazer_data", "webgazer_targets")

    def cell(value: object) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return '"' + text.replace('"', '""') + '"'

    trials = [trial for trial in _trials(WEB_PLACES) if "webgazer_data" in trial]
    rows = [",".join(cell(trial[name]) for name in names) for trial in trials]
    return write(folder / "w1.csv", [",".join(cell(name) for name in names), *rows])


def _chunk(tag: int, content: bytes) -> bytes:
    return b"\x04" + struct.pack("<IH", len(content) + 2, tag) + content


def _stream(number: int, name: str, kind: str, form: str, channels: str, rows: list[tuple[float, bytes]]) -> list[bytes]:
    """Header, one chunk of samples and footer of a stream, as the XDF 1.0 specification lays them out."""
    head = f"<?xml version='1.0'?><info><name>{name}</name><type>{kind}</type><channel_count>{channels.count('<channel>') or 1}"
    head += f"</channel_count><nominal_srate>0</nominal_srate><channel_format>{form}</channel_format><source_id>s</source_id>"
    head += f"<desc><channels>{channels}</channels></desc></info>"
    samples = b"".join(b"\x08" + struct.pack("<d", time) + value for time, value in rows)
    count = b"\x04" + struct.pack("<I", len(rows))
    which = struct.pack("<I", number)
    foot = f"<?xml version='1.0'?><info><first_timestamp>{rows[0][0]}</first_timestamp></info>"
    return [_chunk(2, which + head.encode()), _chunk(3, which + count + samples), _chunk(6, which + foot.encode())]


def xdf(folder: Path) -> Path:
    """A gaze stream of both eyes in shares of the screen, and markers that name the images and end them."""
    names = ("left_gaze_x", "left_gaze_y", "right_gaze_x", "right_gaze_y", "left_pupil_x")
    channels = "".join(f"<channel><label>{name}</label><unit>normalized</unit></channel>" for name in names)
    gaze, markers = [], []
    for stem, time, dx, dy in samples(250):
        x, y = on_screen(stem)
        u, v = (x + dx) / 1920, (y + dy) / 1080
        gaze.append((time / 1000, struct.pack("<5d", u - 0.002, v, u + 0.002, v, 0.9)))
        if not markers or f"/{stem}." not in markers[-1][0]:
            markers.append((f"show images/{stem}.png", time / 1000 - 0.001))
    markers.append(("end of the block", 9.0))
    texts = [(time, b"\x01" + struct.pack("<B", len(text)) + text.encode()) for text, time in markers]
    header = _chunk(1, b"<?xml version='1.0'?><info><version>1.0</version></info>")
    streams = _stream(1, "Tracker", "Gaze", "double64", channels, gaze) + _stream(2, "Task", "Markers", "string", "", texts)
    path = folder / "s1.xdf"
    path.write_bytes(b"XDF:" + header + b"".join(streams))
    return mapping(folder, "s1.xdf")


# Maker, and how its files are called once they are recognised.
MAKERS: dict[Callable[[Path], Path], str] = {
    gazemedseg: "fixation table (fixations)",
    eyelink_fixations: "EyeLink Data Viewer, fixation report (fixations)",
    eyelink_samples: "EyeLink Data Viewer, sample report (raw samples)",
    eyelink_asc_events: "EyeLink .asc (fixations)",
    eyelink_asc_samples: "EyeLink .asc (raw samples)",
    tobii_pro_lab: "Tobii Pro Lab export (raw samples)",
    tobii_pro_lab_units: "Tobii Pro Lab export (raw samples)",
    tobii_media_place: "Tobii Pro Lab export (raw samples)",
    tobii_studio: "Tobii Studio export (raw samples)",
    pupil_gaze: "Pupil Core, gaze on a surface (raw samples)",
    pupil_fixations: "Pupil Core, fixations on a surface (fixations)",
    neon_marker_mapper: "Pupil Labs Marker Mapper (raw samples)",
    neon_reference_image: "Pupil Labs Reference Image Mapper (fixations)",
    gazepoint: "GazePoint Analysis, fixations (fixations)",
    gazepoint_samples: "GazePoint Analysis, all gaze (raw samples)",
    eye_gaze_dataset: "eye-gaze-dataset (fixations)",
    smi: "SMI BeGaze raw data (raw samples)",
    smi_events: "SMI BeGaze events (fixations)",
    bids: "BIDS eye tracking (raw samples)",
    reflacx: "REFLACX (fixations)",
    webgazer: "jsPsych with WebGazer (raw samples)",
    xdf: "LSL .xdf (raw samples)",
    webgazer_csv: "jsPsych with WebGazer (raw samples)",
}
