package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/criu"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
)

// What --soft-dirty may be.
const softDirtyAuto, softDirtyOff = "auto", "off"

// config is what flags and environment say. Flags win over LIFEBOAT_* variables, those over the defaults.
type config struct {
	nodeName            string
	cluster             string
	bucket              string
	keyFile             string
	hostRoot            string
	stateDir            string
	lifeboatDir         string
	runtimeRoot         string
	containerdSocket    string
	awsMetadataEndpoint string
	pollInterval        time.Duration
	margin              time.Duration
	healthAddress       string
	preDump             bool
	engine              string
	softDirty           string
	softDirtyCheck      time.Duration
	window              time.Duration
	prefetchDisk        string
	prefetchReserve     string
	restoresAtOnce      int
	policy              snapshot.Policy
}

// bind declares the flags.
func (c *config) bind(flags *pflag.FlagSet) {
	flags.StringVar(&c.nodeName, "node-name", "", "name of this node's Node object")
	flags.StringVar(&c.cluster, "cluster", "", "name of this cluster in the bucket; never change it")
	flags.StringVar(&c.bucket, "bucket", "", "where generations go: s3://bucket/prefix?region=…, file:///folder")
	flags.StringVar(&c.keyFile, "key-file", "/etc/lifeboat/key/key", "file with the master keys, a line each (32 bytes in hex or base64): the first wraps, the others unwrap")
	flags.StringVar(&c.hostRoot, "host-root", "/proc/1/root", "where the host's root is seen")
	flags.StringVar(&c.stateDir, "state-dir", "/var/lib/lifeboat", "folder on the host for dumps, rounds and restores under way, and for prefetched packs")
	flags.StringVar(&c.lifeboatDir, "lifeboat-dir", "/opt/lifeboat", "folder on the host that `install` filled")
	flags.StringVar(&c.runtimeRoot, "runtime-root", "/run/containerd/runc/k8s.io", "state folder of the OCI runtime on the host")
	flags.StringVar(&c.containerdSocket, "containerd-socket", "/run/containerd/containerd.sock", "containerd's socket on the host")
	flags.StringVar(&c.awsMetadataEndpoint, "aws-metadata-endpoint", "", "instance metadata service (default: the SDK's, http://169.254.169.254)")
	flags.DurationVar(&c.pollInterval, "poll-interval", 2*time.Second, "how often the metadata service is asked")
	flags.DurationVar(&c.margin, "margin", 5*time.Second, "how long before the deadline an unfinished evacuation is given up")
	flags.BoolVar(&c.preDump, "pre-dump", true, "keep copying protected pods while they run, so that little is left at a notice; false: one full dump at the notice")
	flags.StringVar(&c.engine, "engine", string(criu.Auto), "how dumps are taken: lazy, criu or full; auto: the first of them that the host can, and full where it cannot what is asked for")
	flags.StringVar(&c.softDirty, "soft-dirty", softDirtyAuto, "auto: where the kernel tracks writes to memory, read what was written to alone; off: read everything")
	flags.DurationVar(&c.softDirtyCheck, "soft-dirty-check", memory.DefaultCheckEvery, "how often everything is read all the same, to see that the kernel has not missed anything")
	flags.DurationVar(&c.window, "window", 2*time.Minute, "what the cloud gives from a notice to the end: 2m on AWS")
	c.policy = snapshot.DefaultPolicy()
	flags.Float64Var(&c.policy.WindowShare, "window-share", c.policy.WindowShare, "part of the window within which a pod is to be stored for it to count as safe")
	flags.Float64Var(&c.policy.CPUShare, "cpu-share", c.policy.CPUShare, "part of the node's cores that copying may take")
	flags.Float64Var(&c.policy.TargetCPU, "pod-cpu", c.policy.TargetCPU, "cores that copying one pod may take at most")
	flags.Float64Var(&c.policy.NetworkShare, "network-share", c.policy.NetworkShare, "part of the node's upload rate that copying may take")
	flags.DurationVar(&c.policy.Interval, "interval", c.policy.Interval, "from one copy of a pod to the next while nothing presses")
	flags.DurationVar(&c.policy.RecoveryPoint, "recovery-point", c.policy.RecoveryPoint, "from one safety dump of a pod to the next")
	flags.StringVar(&c.prefetchDisk, "prefetch-disk", "20Gi", "how much of the disk prefetched packs may take; 0: nothing is prefetched")
	flags.StringVar(&c.prefetchReserve, "prefetch-reserve", "10Gi", "how much of the disk prefetched packs leave free")
	flags.IntVar(&c.restoresAtOnce, "restores-at-once", 4, "how many pods are fetched at a time; each takes up to 65 MiB of memory and what its manifest does")
	flags.StringVar(&c.healthAddress, "health-address", ":9640", "host:port of /healthz and /metrics")
}

// Validate returns all faults joined.
func (c *config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for flag, value := range map[string]string{"node-name": c.nodeName, "cluster": c.cluster, "bucket": c.bucket} {
		if value == "" {
			fault("--%s is empty; set it, or LIFEBOAT_%s", flag, strings.ToUpper(strings.ReplaceAll(flag, "-", "_")))
		}
	}
	for flag, value := range map[string]string{
		"host-root": c.hostRoot, "state-dir": c.stateDir, "lifeboat-dir": c.lifeboatDir, "runtime-root": c.runtimeRoot,
		"key-file": c.keyFile, "containerd-socket": c.containerdSocket,
	} {
		if !filepath.IsAbs(value) {
			fault("--%s: %q is not an absolute path", flag, value)
		}
	}
	if u, err := url.Parse(c.awsMetadataEndpoint); c.awsMetadataEndpoint != "" && (err != nil || u.Host == "" || u.Scheme != "http") {
		fault("--aws-metadata-endpoint: %q is not http://host[:port]", c.awsMetadataEndpoint)
	}
	if c.pollInterval < 100*time.Millisecond || c.pollInterval > time.Minute {
		fault("--poll-interval: %s is not between 100ms and 1m; AWS asks for 5s or less", c.pollInterval)
	}
	if c.margin < time.Second || c.margin > time.Minute {
		fault("--margin: %s is not between 1s and 1m", c.margin)
	}
	if c.window <= c.margin {
		fault("--window: %s is not longer than --margin, %s", c.window, c.margin)
	}
	if !slices.Contains(criu.Ways(), criu.Way(c.engine)) {
		fault("--engine: %q is none of %v", c.engine, criu.Ways())
	}
	if c.softDirty != softDirtyAuto && c.softDirty != softDirtyOff {
		fault("--soft-dirty: %q is neither auto nor off", c.softDirty)
	}
	if c.softDirtyCheck < time.Second {
		fault("--soft-dirty-check: %s is less than 1s", c.softDirtyCheck)
	}
	for flag, value := range map[string]string{"prefetch-disk": c.prefetchDisk, "prefetch-reserve": c.prefetchReserve} {
		if _, err := byteCount(value); err != nil {
			fault("--%s: %q is %w", flag, value, err)
		}
	}
	if c.restoresAtOnce < 1 || c.restoresAtOnce > 64 {
		fault("--restores-at-once: %d is not between 1 and 64", c.restoresAtOnce)
	}
	if err := c.policy.Validate(); err != nil {
		fault("settings of copying: %w", err)
	}
	if _, _, err := net.SplitHostPort(c.healthAddress); err != nil {
		fault("--health-address: %q is not host:port, as in \":9640\"", c.healthAddress)
	}
	return errors.Join(faults...)
}

// byteCount reads a number of bytes as Kubernetes writes it.
func byteCount(text string) (int64, error) {
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Sign() < 0 {
		return 0, errors.New("no number of bytes; write it as in 20Gi or 500M")
	}
	return q.Value(), nil
}
