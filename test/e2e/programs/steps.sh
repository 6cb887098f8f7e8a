# What the shell programs share: a token of this very process, and the pauses after steps.
token=$(od -An -tx8 -N8 /dev/urandom | tr -d ' ')

# step N says that it is done. It pauses until the file hurry is there: after each of the first steps once, after those from HOLD
# on for as long as it takes.
step() {
	echo "n=$1 token=$token"
	[ "$PAUSE" = 0 ] && return
	until [ -e /data/hurry ]; do
		sleep "$PAUSE"
		if [ "$1" -lt "$HOLD" ]; then break; fi
	done
	return 0 # and not what the loop has: errexit would end the program
}

# finish gives what was read as the result.
finish() {
	sha256sum | cut -d' ' -f1 | tr -d '\n' >/dev/termination-log
}
