#!/bin/sh
# CPython's sqlite3, seen 2026-11-28 with 3.11.7, 3.12.1 and 3.13.0 (SQLite 3.40.1); 3.10.13 is right.
# What one would expect: every damage to a database is a sqlite3.Error; SQLite says "malformed database schema".
# What happens: SQLite's message quotes what it could not read. Where that is no UTF-8, sqlite3 cannot turn the message into
# text, and its failure to do so, a UnicodeDecodeError, takes the error's place. Who catches sqlite3.Error does not get it.
# Below: three bytes of a table's definition become 0xff.
# Seen: UnicodeDecodeError, sqlite3.Error: False
set -eu
seen=$(python3 - <<'PY'
import pathlib
import sqlite3
import tempfile

with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder, "file")
    db = sqlite3.connect(file)
    db.execute("CREATE TABLE talks (id INTEGER)")
    db.close()
    file.write_bytes(file.read_bytes().replace(b"talks (id", b"talks \xff\xff\xff"))
    db = sqlite3.connect(file)
    try:
        db.execute("SELECT * FROM talks")
    except Exception as error:
        print(f"{type(error).__name__}, sqlite3.Error: {isinstance(error, sqlite3.Error)}")
    db.close()
PY
)
echo "$seen"
[ "$seen" = "UnicodeDecodeError, sqlite3.Error: False" ]
