"""The text that every archive begins with: how to restore it without this program.

`tests/test_by_hand.py` runs its commands as they stand in an archive. Its bytes are part of what a build writes.
"""

TEXT = rb"""
This file is an xtar archive: a folder, packed so that damage stays where it
hits. The program restores it with  xtar extract ARCHIVE -C DESTINATION

It is a plain tar. NAME.zip holds the file NAME; NAME.xtar is the folder NAME,
again a tar like this one. NAME/.zip and NAME/.xtar are the same, for names too
long or taken. Symlinks, fifos and devices stand as they are; ./ has the mode,
owner and time of the folder itself. structure.jsonl.gz describes the folder's
content, one line each, catalogue.jsonl.gz repeats that of all folders (zcat).
The entry of every zip is the whole path below the top folder, so even a zip
that was carved out of a wreck tells where it belongs.

WITHOUT THE PROGRAM you need a POSIX shell, tar (GNU or BSD), Info-ZIP unzip:

  sed -n '/^#BEGIN/,/^#END/p;/^#END/q' ARCHIVE >restore.sh
  sh restore.sh /.../ARCHIVE /.../STAGING /.../DESTINATION

STAGING and DESTINATION are two folders, neither inside the other; files of the
same names in DESTINATION are replaced. STAGING, where temporary files lie, may
need twice the room of ARCHIVE, and no [ ] * ? \ in its path. Only root can
restore owners and devices.

#BEGIN
umask 077; export LC_ALL=C.UTF-8 TZ=UTC0
x=X; [ "$(id -u)" = 0 ] || x=
restore() ( # archive, folder to work in, destination, path below it
  mkdir -p "$2/in" "$3/$4"
  tar --numeric-owner -xpf "$1" -C "$2/in"
  chmod 700 "$2/in"
  [ "$4" = . ] || for i in 1000000 $(wc -c <"$1"); do # of a nested tar, only
    dd if=/dev/null of="$1" bs=1 seek="$i" 2>&-; done #   the head is kept
  for m in "$2"/in/* "$2"/in/.[!.]* "$2"/in/..?*; do
    if [ -d "$m" ] && [ ! -h "$m" ]; then
      if [ -f "$m/.zip" ]; then m=$m/.zip; else m=$m/.xtar; fi
    fi
    n=${m#"$2"/in/}
    if [ -h "$m" ] || [ -p "$m" ] || [ -b "$m" ] || [ -c "$m" ]; then
      mv -f "$m" "$3/$4/$n"
    elif [ -f "$m" ] && [ "$n" != "${n%.zip}" ]; then
      mv "$m" "$2/z.zip"
      (umask 0; unzip -oqK^$x "$2/z.zip" -d "$3")
      n=${n%.zip}; touch -c -r "$2/z.zip" "$3/$4/${n%/}"
    elif [ -f "$m" ] && [ "$n" != "${n%.xtar}" ]; then
      n=${n%.xtar}; restore "$m" "$2/t" "$3" "$4/${n%/}"
    fi
  done
  cd "$3/$4" &&
    tar --numeric-owner -xpf "$1" --exclude '*[!./]*' --exclude '..*'
  rm -rf "$2"
)
case $1:$2:$3 in
  /*:/*:/*) restore "$1" "$2/$$" "$3" . ;;
  *) echo give whole paths, from / on >&2; exit 2 ;;
esac
#END

Of a set of volumes (NAME.001.xtar, ...) restore each, into one DESTINATION. A
file too long for one volume is in parts then:  cat FILE.part-* >FILE  joins it.

What this leaves out, though the archive has it: further names of a hard link
("link" in structure.jsonl.gz is the first name); extended attributes and ACLs
(GNU tar --xattrs --xattrs-include='*' sets those of folders); holes (they
become zeros); fractions of a second. Paths of over 4,095 bytes get lost or cut.
Unzipping by hand, mind that unzip changes control bytes in names without -^,
drops setuid without -K, and takes [ ] * ? in a zip's name for a pattern. BSD
tar drops a backslash, or a drive letter and colon, that a name begins with.
"""
