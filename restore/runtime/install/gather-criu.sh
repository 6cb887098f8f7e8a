#!/bin/sh
# gather-criu.sh DEST PREFIX: copy this system's CRIU, its loader and all its libraries to DEST/bin and DEST/lib so that
# they run from PREFIX on any host, whatever C library that has. Run while the image is built; wants patchelf and ldd.
#
# DT_RPATH (not RUNPATH) on the program also governs the libraries of its libraries, and the loader looks there first:
# none of the host's libraries ever mixes in. The libraries themselves stay as they are.
set -eu
dest=$1 prefix=$2
criu=$(command -v criu)
loader=$(patchelf --print-interpreter "$criu")
mkdir -p "$dest/bin" "$dest/lib"

install -m 0755 "$(readlink -f "$loader")" "$dest/lib/$(basename "$loader")"
ldd "$criu" | awk '$2 == "=>" { if ($3 !~ "^/") { print "missing: " $1 > "/dev/stderr"; exit 1 }; print $1, $3 }' > "$dest/closure"
while read -r name path; do
	if patchelf --print-rpath "$path" | grep -q .; then
		echo "$path has a RPATH of its own, which would lead it to the host's libraries" >&2
		exit 1
	fi
	install -m 0644 "$(readlink -f "$path")" "$dest/lib/$name"
done < "$dest/closure"
rm "$dest/closure"

install -m 0755 "$criu" "$dest/bin/criu"
patchelf --set-interpreter "$prefix/lib/$(basename "$loader")" --force-rpath --set-rpath "$prefix/lib" "$dest/bin/criu"
