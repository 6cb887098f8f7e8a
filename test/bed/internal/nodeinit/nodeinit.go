// Package nodeinit is pid 1 of a node: it builds the node's root, brings its network up, answers for its metadata
// service, keeps containerd and the kubelet running and reaps orphans.
package nodeinit

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/test/bed/imds"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/pidone"
	"github.com/lifeboat-dev/lifeboat/test/bed/internal/relay"
)

// instanceType is what the metadata service and the node's label say.
const instanceType = "m7i.large"

// node is a running pid 1.
type node struct {
	layout.NodeConfig
	log      zerolog.Logger
	reaper   *pidone.Reaper
	services map[string]*pidone.Service
	started  time.Time
	// folder is the node's folder on the machine, kept open over the change of root.
	folder *os.Root
}

// Run reads a layout.NodeConfig from standard input and runs the node until it is killed. Its caller has put eth0 into
// the network namespace before it closes standard input.
func Run(ctx context.Context) error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)
	n := &node{log: zerolog.New(os.Stderr).With().Timestamp().Logger(), reaper: pidone.NewReaper(),
		services: map[string]*pidone.Service{}, started: time.Now()}
	if err := json.NewDecoder(os.Stdin).Decode(&n.NodeConfig); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if err := n.announce(); err != nil {
		return err
	}
	var err error
	if n.folder, err = os.OpenRoot(n.Dir.Node(n.Name)); err != nil {
		return fmt.Errorf("open the node's folder: %w", err)
	}
	defer n.folder.Close()
	if err := n.prepare(); err != nil {
		return fmt.Errorf("prepare node %s: %w", n.Name, err)
	}
	go n.reaper.Run(ctx)
	if err := n.network(); err != nil {
		return fmt.Errorf("bring up the network of node %s: %w", n.Name, err)
	}
	return n.serve(ctx)
}

// announce writes which process of the machine this is. /proc is still the machine's own here, so that self is the pid
// that the machine knows.
func (n *node) announce() error {
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return fmt.Errorf("find own pid: %w", err)
	}
	pid, err := strconv.Atoi(self)
	if err != nil {
		return fmt.Errorf("find own pid: %w", err)
	}
	p, err := layout.FindProcess(pid)
	if err != nil {
		return err
	}
	return layout.WriteJSON(n.Dir.NodeProcess(n.Name), p)
}

func (n *node) prepare() error {
	if err := unix.Sethostname([]byte(n.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := buildRoot(n.NodeConfig); err != nil {
		return err
	}
	for _, dir := range []string{"/run/lock", "/var/log/pods", "/var/log/containers", "/etc/containerd/conf.d", "/run/bed"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"); err != nil {
		return err
	}
	return provision(n.NodeConfig)
}

func (n *node) network() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("forward packets: %w", err)
	}
	commands := [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "addr", "add", layout.MetadataAddress + "/32", "dev", "lo"},
		{"ip", "addr", "add", n.Address + "/24", "dev", "eth0"},
		{"ip", "link", "set", "eth0", "up"},
		{"ip", "route", "add", "default", "via", layout.HubAddress},
	}
	for _, other := range layout.Nodes() {
		if other.Name != n.Name {
			commands = append(commands, []string{"ip", "route", "add", other.PodRange, "via", other.Address})
		}
	}
	for _, c := range commands {
		if err := n.reaper.Command(c...); err != nil {
			return err
		}
	}
	return nil
}

// serve runs everything of the node until ctx ends.
func (n *node) serve(ctx context.Context) error {
	n.services[containerd] = pidone.NewService(n.reaper, n.log, containerd, "/var/log/containerd.log",
		pidone.Spec{Args: []string{"containerd", "--config", "/etc/containerd/config.toml"}})
	n.services[kubelet] = pidone.NewService(n.reaper, n.log, kubelet, "/var/log/kubelet.log", pidone.Spec{Args: []string{
		"kubelet", "--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=" + kubeletConf, "--hostname-override=" + n.Name,
		"--node-ip=" + n.Address, "--root-dir=/var/lib/kubelet", "--cert-dir=/var/lib/kubelet/pki",
		"--node-labels=topology.kubernetes.io/region=" + layout.Region + ",topology.kubernetes.io/zone=" + n.Zone +
			",node.kubernetes.io/instance-type=" + instanceType}})
	g, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context) error{n.metadata, n.registry, n.control, n.services[containerd].Run} {
		g.Go(func() error { return part(ctx) })
	}
	g.Go(func() error {
		if err := awaitSocket(ctx, layout.ContainerdSocket); err != nil {
			return err
		}
		if err := awaitAPI(ctx); err != nil {
			return err
		}
		return n.services[kubelet].Run(ctx)
	})
	n.log.Info().Str("node", n.Name).Str("boot", n.BootID).Msg("node up")
	return g.Wait()
}

func (n *node) metadata(ctx context.Context) error {
	l, err := net.Listen("tcp", net.JoinHostPort(layout.MetadataAddress, "80"))
	if err != nil {
		return fmt.Errorf("serve metadata: %w", err)
	}
	if n.MetadataVia != "" {
		return relay.Serve(ctx, l, n.MetadataVia)
	}
	service := imds.New(imds.Instance{ID: n.InstanceID, Type: instanceType, Zone: n.Zone, Region: layout.Region,
		PrivateIP: n.Address, Hostname: n.Name, Started: n.started}, n.notices)
	server := &http.Server{Handler: service, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	return server.Serve(l)
}

// notices reads what has been announced from the node's folder, where Node.Notice writes it.
func (n *node) notices() (imds.Notices, error) {
	var notices imds.Notices
	b, err := n.folder.ReadFile("notices.json")
	if errors.Is(err, fs.ErrNotExist) {
		return notices, nil
	}
	if err != nil {
		return notices, err
	}
	return notices, json.Unmarshal(b, &notices)
}

// registry lets the node reach the registry as localhost, the one host for which containerd speaks plain HTTP.
func (n *node) registry(ctx context.Context) error {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(layout.RegistryPort)))
	if err != nil {
		return fmt.Errorf("relay the registry: %w", err)
	}
	return relay.Serve(ctx, l, net.JoinHostPort(layout.HubAddress, strconv.Itoa(layout.RegistryPort)))
}

// awaitSocket returns when the unix socket accepts connections.
func awaitSocket(ctx context.Context, path string) error {
	return await(ctx, path, func() error {
		c, err := net.Dial("unix", path)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// awaitAPI returns when the API server answers: a kubelet that meets none at its start backs off for long.
func awaitAPI(ctx context.Context) error {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // nothing is told or believed
	defer transport.CloseIdleConnections()
	client := &http.Client{Timeout: time.Second, Transport: transport}
	url := "https://" + net.JoinHostPort(layout.HubAddress, strconv.Itoa(layout.APIPort)) + "/readyz"
	return await(ctx, "the API server", func() error {
		res, err := client.Get(url)
		if err != nil {
			return err
		}
		if res.StatusCode != http.StatusOK {
			err = errors.New(res.Status)
		}
		return errors.Join(err, res.Body.Close())
	})
}

func await(ctx context.Context, what string, ready func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, err)
		case <-tick.C:
		}
	}
}
