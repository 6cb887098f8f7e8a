// Package bench measures Lifeboat against what one would use without it, both in the same run on the same machine:
//
//	make bench [PKG=store|handover]
//
// Each part gives rows: a value of ours, the same of theirs, and their ratio. They go to build/bench/<part>.json and, as a
// table, to standard output. No figure is kept from one run to the next, and none stands in the source but targets.
package bench
