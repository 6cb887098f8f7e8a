// Package bed is a two-node Kubernetes on one machine: real etcd, API server, controllers, scheduler, kubelets,
// containerd, runc and CRIU, an image registry, an S3 server, and for each node an EC2 metadata service to be told
// interruption notices. A node has network, mount, UTS, PID and IPC namespaces of its own; killing its pid 1 is a
// faithful node death. It needs root and a Debian machine.
//
// A bed hangs on one process, its supervisor, which is pid 1 of the bed's pid namespace and holds the bed's network and
// mounts in namespaces of its own. Whatever ends it ends the bed; only cgroups and the state folder can stay behind, and
// the next Up or Down of that folder removes them.
package bed
