// Package layout holds what the parts of the test bed (the API, the supervisor and the nodes' pid 1) must agree on:
// names, addresses, paths in the state folder, and the configuration handed from one to the next.
package layout

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// Addresses inside the bed. Every bed has its own network namespaces, so all beds share them.
const (
	HubAddress      = "10.99.0.1"
	APIPort         = 6443
	BucketPort      = 7070
	RegistryPort    = 5000
	ServiceAddress  = "10.100.0.1"
	ServiceRange    = "10.100.0.0/24"
	MetadataAddress = "169.254.169.254"
)

// Names that a user meets.
const (
	// Registry is the host part of image references as the nodes see them.
	Registry = "localhost:5000"
	// PauseImage is the pod sandbox's image.
	PauseImage = Registry + "/pause:1"
	// SharedFolder is where every node mounts the folder that all nodes share.
	SharedFolder = "/srv/lifeboat-bucket"
	// Bucket is the bucket made at Up; Region is what the S3 server answers for.
	Bucket = "lifeboat"
	Region = "us-east-1"
	// AccessKey and SecretKey open the S3 server.
	AccessKey = "lifeboat"
	SecretKey = "lifeboat-secret"
	// ContainerdSocket is containerd's address inside a node.
	ContainerdSocket = "/run/containerd/containerd.sock"
)

// Environment names the variable that every process of a bed carries, with the bed's suffix as its value.
const Environment = "LIFEBOAT_BED"

// Node is one machine of the bed.
type Node struct {
	Name       string
	Address    string
	PodRange   string
	PodGateway string
	InstanceID string
	Zone       string
}

// Nodes lists the machines of a bed.
func Nodes() []Node {
	return []Node{node("a", 1), node("b", 2)}
}

func node(name string, n int) Node {
	return Node{
		Name: name, Address: fmt.Sprintf("10.99.0.%d", 10+n),
		PodRange: fmt.Sprintf("10.99.%d.0/24", n), PodGateway: fmt.Sprintf("10.99.%d.1", n),
		InstanceID: fmt.Sprintf("i-%017x", 0xbed0+n), Zone: Region + name,
	}
}

// Suffix tells the beds of one machine apart: it is derived from the state folder's absolute path.
func Suffix(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:4])
}

// CgroupName is the cgroup of a node beneath the root of every hierarchy.
func CgroupName(suffix, node string) string { return "lifeboat-bed-" + suffix + "-" + node }

// Dir is a bed's state folder.
type Dir string

// Path joins elements to the state folder.
func (d Dir) Path(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

// Marker is an empty file that tells a state folder from any other.
func (d Dir) Marker() string { return d.Path(".lifeboat-bed") }

// Config is the supervisor's configuration.
func (d Dir) Config() string { return d.Path("config.json") }

// State is the file that says who supervises the bed.
func (d Dir) State() string { return d.Path("state.json") }

// Kubeconfig opens the API as cluster admin from the machine's root network namespace.
func (d Dir) Kubeconfig() string { return d.Path("kubeconfig") }

// Control is the supervisor's unix socket.
func (d Dir) Control() string { return d.Path("control.sock") }

// PKI holds keys and certificates.
func (d Dir) PKI() string { return d.Path("pki") }

// Shared is the folder that all nodes mount.
func (d Dir) Shared() string { return d.Path("shared") }

// Log is the log of a process of the control plane.
func (d Dir) Log(name string) string { return d.Path("log", name+".log") }

// Node is the folder of one node: upper (its root's changes), containerd, kubelet, log.
func (d Dir) Node(name string, elem ...string) string {
	return d.Path(append([]string{"nodes", name}, elem...)...)
}

// NodeProcess is the file that names a node's pid 1 as the machine sees it.
func (d Dir) NodeProcess(name string) string { return d.Node(name, "pid1.json") }

// NodeNotices is the file that a node's metadata service answers from.
func (d Dir) NodeNotices(name string) string { return d.Node(name, "notices.json") }

// AuditPolicy is what the API server selects by for AuditLog.
func (d Dir) AuditPolicy() string { return d.Path("audit-policy.yaml") }

// AuditLog has a line of JSON for each request that was selected.
func (d Dir) AuditLog() string { return d.Log("audit") }

// maxSocketPath is sizeof(sun_path) - 1.
const maxSocketPath = 107

// Validate says what makes the folder unusable.
func (d Dir) Validate() error {
	if !filepath.IsAbs(string(d)) {
		return fmt.Errorf("state folder %s: want an absolute path", d)
	}
	if len(d.Control()) > maxSocketPath {
		return fmt.Errorf("state folder %s: %d characters is too long for its unix socket, choose a shorter one", d, len(d))
	}
	if strings.ContainsAny(string(d), ":,\\ \n") {
		return fmt.Errorf("state folder %s: colon, comma, backslash and space have a meaning in mount options, choose another", d)
	}
	return nil
}

// Config is what Up hands the supervisor. All paths are absolute.
type Config struct {
	Dir    Dir
	Suffix string
	// Root is the Debian root that all nodes share as their overlay's lower layer.
	Root string
	// BedBinary is the program itself; Kubernetes, Tools and Containerd are folders of binaries. An empty Containerd
	// means the root's own.
	BedBinary  string
	Kubernetes string
	Tools      string
	Containerd string
	// Shim is the prlimit shim, empty where the machine needs none.
	Shim string
	// Pause is the pod sandbox's program.
	Pause string
	// Metadata maps a node to the HOST:PORT of another metadata service in the machine's root network namespace.
	Metadata map[string]string
	// BucketTarget is the HOST:PORT of another S3 server there; empty means the bed's own.
	BucketTarget string
	MonitorGrace time.Duration
	// NoNodes leaves the nodes out. Audit says that AuditPolicy holds the API server's.
	NoNodes, Audit bool
	// HostAPIPort is the loopback port of the API server in the machine's root network namespace.
	HostAPIPort int
}

// NodeConfig is what the supervisor hands a node's pid 1.
type NodeConfig struct {
	Config
	Node
	// BootID is new at every start, as a kernel's is.
	BootID string
	// MetadataVia is where metadata requests are passed on to; empty means the built-in service.
	MetadataVia string
}
