"""A DICOM node: what arrives is spooled, segmented, and its segmentation sent back; needs the `node` extra.

    C-STORE --receive--> spool (files, SQLite) --work--> results in the spool --send--> STOW-RS or C-STORE

Every arrow ends with a commit to the spool's database, so that the node may be killed anywhere and goes on from there.
"""
