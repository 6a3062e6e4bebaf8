"""The inference runtimes, behind one method."""
