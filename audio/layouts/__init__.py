"""Where recordings lie in a folder, and what their places and names say of them.

`files` lists the sound files, `dcase` knows the names of the DCASE tasks, `folders` those of machines and conditions,
`table` reads a clips.csv, `found` puts them together. No sound file is opened here.
"""
