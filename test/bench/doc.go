// Package bench measures Lifeboat against what one would use without it, both in the same run on the same machine:
//
//	make bench [PKG=store|handover|snapshot|restore|scale]
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
// # restore
//
// How long a pod takes from released to resumed (package resume). Of 64 MiB, 1 and 4 GiB, in small pages, one job after the other
// goes from node a to node b; the images that the agent hands to CRIU get second names meanwhile, and when the job goes on,
// runc alone restores the same images a second time beside it, in the same sandbox and on the same files: from the disk, out
// of which nothing is in the page cache, and from the page cache. The link is not narrowed, the bucket is on the same machine.
// Then 30 pods of 32 MiB go over at once; set against them is how long the same 30 took to be started in the first place.
// Steps are sizes and crowd: `bin/bench restore --steps sizes --sizes 64MiB`.
//
// # scale
//
// A control plane without kubelets (package scale): 1,000 Node objects, 10,000 pods bound and running, half of them of
// ReplicaSets, half in one namespace; lifeboat-controller makes their Checkpoints, and then 10 nodes are reclaimed, one a
// second, and 300 within a minute. The API server's audit log says what the controller asked for, /proc what each program
// used. On a machine of few cores the minute measures the machine: what counts is what a pod costs, and that each one goes on.
// Steps are lists, calm and minute: `bin/bench scale --nodes 100 --steps calm` is for development.
//
// # handover
//
// A job is handed from node to node of a test bed, and one of the same kind saved by what is there without Lifeboat:
// runc, the kubelet's checkpoint API, zstd, an S3 client.
package bench
