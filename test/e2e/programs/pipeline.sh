#!/bin/bash
# A pipeline of eight programs, one of which is slow, so that all pipes before it are full; a sort of what passes, into files of its
# own; a lock for which somebody waits; a file without a name. The result depends on the number of steps alone.
set -euo pipefail
. /programs/steps.sh

lines=512 bytes=16384 # of a block, which is a step
exec {lock}>/tmp/lock
flock "$lock"
(
	exec {lock}>&-
	flock /tmp/lock echo waiter >>/tmp/order
) &
waiter=$!
exec {ghost}>/tmp/ghost
ghost_file=/proc/$$/fd/$ghost
rm /tmp/ghost

produce() {
	awk -v last=$((STEPS * lines)) 'BEGIN { for (x = 1; ++n <= last; x = (x * 16807) % 2147483647) printf "%015d %015x\n", n, x }'
}
throttle() {
	for ((n = 1; n <= STEPS; n++)); do
		head -c $bytes >/tmp/block
		cat /tmp/block >&"$ghost"
		cat /tmp/block
		step "$n" >&3
	done
}

mkfifo /tmp/copy
sort -k 2 -S 1M -T /tmp </tmp/copy | sha256sum >/tmp/sorted &
sorter=$!
{
	produce | gzip | gzip -d | tee /tmp/copy | throttle | awk '{ sum += $1 * NR % 8191; print sum, $2 }' | sha256sum >/tmp/passed || {
		echo "the pipeline ended with ${PIPESTATUS[*]}" >/dev/termination-log
		exit 1
	}
} 3>&1
wait $sorter
echo pipeline >>/tmp/order
flock --unlock "$lock"
wait $waiter
cat /tmp/sorted /tmp/passed /tmp/order "$ghost_file" | finish
