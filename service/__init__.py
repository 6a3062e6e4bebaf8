"""An artifact folder to masks over HTTP; never loads torch."""
