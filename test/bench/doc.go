// Package bench measures Lifeboat against what one would use without it, both in the same run on the same machine:
//
//	make bench [PKG=store|handover|snapshot]
//
// Each part gives rows: a value of ours, the same of theirs, and their ratio. They go to build/bench/<part>.json and, as a
// table, to standard output. No figure is kept from one run to the next, and none stands in the source but targets.
//
// # store
//
// A numpy process of 530 MB (trainer.py says what it holds) goes through ten rounds of change in each of four series: 1 %
// and 5 % of its arrays' pages at random, 4 % in runs of 16 to 512 pages, and a fifth of its Python objects. After each
// round CRIU dumps it whole, and the same images are saved as the store's next generation and by restic. What is put,
// KEY, HEAD and manifest included, is set against what restic's repository grows by and against one plain zstd stream of
// the pages that a comparison of the dumps finds changed. In the end the images come back from the store, CRIU restores
// the process from them, and it compares all its memory with what it held.
//
// The last dump then serves for what a whole generation costs: CPU on a bucket that swallows it, the upload to versitygw
// against plain PUTs of minio-go (in a network of its own, whose loopback tc narrows), and the fetch. Scan and memory are
// measured on synthetic pages. Python, numpy, CRIU and restic are Debian's, in a root of their own.
//
// # snapshot
//
// What protection costs and gains (package protect), on containers of a bed whose link tc narrows to 750 Mb/s. Of 256 MiB, 1,
// 4 and 8 GiB, in small pages and in huge ones, one job after the other: runc dumps it to a tmpfs and to the disk, the
// kubelet's checkpoint API does, both go through tar, zstd and PUT; then the job is labelled, and when its safety dump is
// stored it changes 1 % of its pages, at random or in runs, and the node gets its notice. For how long CRIU holds the job still
// is what CRIU says; ours is from frozen to dumped on the Checkpoint. Rounds have settings of their own there, for speed;
// overhead is measured with the defaults: two jobs use both cores while the agent works and stands still (SIGSTOP) in turn.
// Soft-dirty and engine criu are measured in a VM, where seconds mean something against each other alone. The whole takes some
// 25 minutes and 20 GB of memory; `bin/bench snapshot --sizes 256MiB --steps containers` is for development (steps are
// overhead, containers, growth, vm).
//
// # handover
//
// A job is handed from node to node of a test bed, and one of the same kind saved by what is there without Lifeboat:
// runc, the kubelet's checkpoint API, zstd, an S3 client.
package bench
