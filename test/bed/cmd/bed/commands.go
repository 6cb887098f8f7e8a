package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/lifeboat-dev/lifeboat/test/bed"
)

// app holds the flags that all commands share.
type app struct{ dir string }

func rootCommand() *cobra.Command {
	a := &app{}
	root := &cobra.Command{Use: "bed", Short: "A two-node Kubernetes on one machine, to test Lifeboat on",
		SilenceUsage: true, SilenceErrors: true}
	root.PersistentFlags().StringVar(&a.dir, "dir", "", "state folder (default <checkout>/build/bed)")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if a.dir != "" || cmd.Hidden {
			return nil
		}
		dir, err := bed.DefaultDir(cmd.Context())
		a.dir = dir
		return err
	}
	root.AddCommand(a.up(), a.down(), a.status(), a.notice(), a.kill(), a.start(), a.exec(), a.kubectl(), a.bucket(),
		a.push(), a.buildImage(), debianRootfs(), deps(), prepare())
	root.AddCommand(internalCommands()...)
	return root
}

func (a *app) up() *cobra.Command {
	o := bed.Options{Keep: true, Progress: os.Stdout}
	cmd := &cobra.Command{Use: "up", Args: cobra.NoArgs, Short: "Bring the bed up and leave it up"}
	cmd.Flags().StringVar(&o.Containerd, "containerd", "", `"2.4" for the newest; Debian's 2.1 otherwise`)
	cmd.Flags().StringToStringVar(&o.Metadata, "metadata", nil, "another metadata service for a node: a=http://127.0.0.1:1338")
	cmd.Flags().StringVar(&o.BucketEndpoint, "bucket-endpoint", "", "another S3 server: http://127.0.0.1:9000")
	cmd.Flags().DurationVar(&o.NodeMonitorGrace, "node-monitor-grace", 0, "how long a silent node stays Ready (default 50s)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o.Dir = a.dir
		c, err := bed.Up(cmd.Context(), o)
		if errors.Is(err, bed.ErrAlreadyUp) {
			if c, err = bed.Attach(a.dir); err != nil {
				return fmt.Errorf("%w: another process is bringing it up or taking it down", bed.ErrAlreadyUp)
			}
			fmt.Println("The bed is already up.")
		}
		if err != nil {
			return err
		}
		fmt.Print(usage(c))
		return nil
	}
	return cmd
}

func (a *app) down() *cobra.Command {
	return &cobra.Command{Use: "down", Args: cobra.NoArgs, Short: "End the bed and remove everything of it",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := bed.Down(cmd.Context(), a.dir); err != nil {
				return err
			}
			fmt.Println("The bed is down.")
			return nil
		}}
}

func (a *app) status() *cobra.Command {
	return &cobra.Command{Use: "status", Args: cobra.NoArgs, Short: "Say whether the bed is up, and how to use it",
		RunE: func(*cobra.Command, []string) error {
			c, err := bed.Attach(a.dir)
			if err != nil {
				return err
			}
			fmt.Print(c.Status(), "\n", usage(c))
			return nil
		}}
}

// onNode makes a command whose first argument is a node's name.
func (a *app) onNode(use, short string, do func(context.Context, *bed.Node) error) *cobra.Command {
	return &cobra.Command{Use: use + " NODE", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := a.node(args[0])
			if err != nil {
				return err
			}
			return do(cmd.Context(), n)
		}}
}

func (a *app) node(name string) (*bed.Node, error) {
	c, err := bed.Attach(a.dir)
	if err != nil {
		return nil, err
	}
	return c.Node(name)
}

func (a *app) notice() *cobra.Command {
	var in time.Duration
	var clear, rebalance bool
	action := "terminate"
	cmd := a.onNode("notice", "Announce an interruption of a node", func(ctx context.Context, n *bed.Node) error {
		at := time.Now().Add(in).UTC().Truncate(time.Second)
		if clear {
			return n.ClearNotice(ctx)
		}
		if rebalance {
			return n.Rebalance(ctx, time.Now())
		}
		if err := n.Notice(ctx, action, at); err != nil {
			return err
		}
		fmt.Printf("node %s: %s at %s\n", n.Name, action, at.Format(time.RFC3339))
		return nil
	})
	cmd.Flags().DurationVar(&in, "in", 2*time.Minute, "time from now until the interruption")
	cmd.Flags().StringVar(&action, "action", action, "terminate, stop or hibernate")
	cmd.Flags().BoolVar(&clear, "clear", false, "take the notice back")
	cmd.Flags().BoolVar(&rebalance, "rebalance", false, "recommend a rebalance instead")
	return cmd
}

func (a *app) kill() *cobra.Command {
	return a.onNode("kill", "Kill a node as a power cut does (kill -9 of its pid 1)",
		func(ctx context.Context, n *bed.Node) error { return n.Kill(ctx) })
}

func (a *app) start() *cobra.Command {
	return a.onNode("start", "Start a killed node again",
		func(ctx context.Context, n *bed.Node) error { return n.Start(ctx) })
}

func (a *app) exec() *cobra.Command {
	cmd := &cobra.Command{Use: "exec NODE COMMAND...", Short: "Run a command inside a node (bash for a shell)",
		Args: cobra.MinimumNArgs(2)}
	cmd.Flags().SetInterspersed(false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		n, err := a.node(args[0])
		if err != nil {
			return err
		}
		if args = args[1:]; args[0] == "--" && len(args) > 1 {
			args = args[1:]
		}
		command, err := n.Command(cmd.Context(), args...)
		if err != nil {
			return err
		}
		command.SysProcAttr = nil // the terminal's own process group, for a shell
		command.Cancel = func() error { return command.Process.Kill() }
		return attached(command)
	}
	return cmd
}

func (a *app) kubectl() *cobra.Command {
	return &cobra.Command{Use: "kubectl ARGUMENT...", Short: "Run kubectl as the cluster's admin", DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := bed.DefaultDir(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) > 1 && args[0] == "--dir" { // flags after the command are kubectl's
				dir, args = args[1], args[2:]
			}
			c, err := bed.Attach(dir)
			if err != nil {
				return err
			}
			return attached(exec.CommandContext(cmd.Context(), c.KubectlPath(), append([]string{"--kubeconfig", c.Kubeconfig}, args...)...))
		}}
}

// exitStatus is that of a command run for the user, which has said itself what went wrong.
type exitStatus int

// Error implements error.
func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// attached runs a command on this process's terminal.
func attached(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exitStatus(max(1, exit.ExitCode()))
	}
	return err
}

func (a *app) bucket() *cobra.Command {
	return &cobra.Command{Use: "bucket stop|start", Short: "Stop or start the S3 server", Args: cobra.ExactArgs(1),
		ValidArgs: []string{"stop", "start"},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := bed.Attach(a.dir)
			if err != nil {
				return err
			}
			switch args[0] {
			case "stop":
				return c.StopBucket(cmd.Context())
			case "start":
				return c.StartBucket(cmd.Context())
			}
			return fmt.Errorf("bucket %s: want stop or start", args[0])
		}}
}

func (a *app) push() *cobra.Command {
	var cfg v1.Config
	var archive bool
	cmd := &cobra.Command{Use: "push NAME TAR", Args: cobra.ExactArgs(2),
		Short: "Push an image made from a tar of a root file system, and print its reference",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := bed.Attach(a.dir)
			if err != nil {
				return err
			}
			var ref string
			if archive {
				ref, err = c.PushArchive(cmd.Context(), args[0], args[1])
			} else {
				ref, err = c.PushRootfs(cmd.Context(), args[0], args[1], cfg)
			}
			return printReference(ref, err)
		}}
	cmd.Flags().StringSliceVar(&cfg.Entrypoint, "entrypoint", nil, "entrypoint, comma-separated")
	cmd.Flags().StringSliceVar(&cfg.Cmd, "cmd", nil, "arguments of the entrypoint, comma-separated")
	cmd.Flags().StringArrayVar(&cfg.Env, "env", nil, "NAME=VALUE")
	cmd.Flags().StringVar(&cfg.User, "user", "", "UID[:GID]")
	cmd.Flags().StringVar(&cfg.WorkingDir, "workdir", "", "working folder")
	cmd.Flags().BoolVar(&archive, "archive", false, "TAR is a docker-archive or oci-archive, not a root file system")
	return cmd
}

func (a *app) buildImage() *cobra.Command {
	var dockerfile string
	cmd := &cobra.Command{Use: "build-image NAME CONTEXT", Args: cobra.ExactArgs(2),
		Short: "Build a Dockerfile FROM debian:forky-slim, push it and print its reference",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := bed.Attach(a.dir)
			if err != nil {
				return err
			}
			return printReference(c.BuildImage(cmd.Context(), os.Stderr, dockerfile, args[1], args[0]))
		}}
	cmd.Flags().StringVarP(&dockerfile, "file", "f", "Dockerfile", "the Dockerfile")
	return cmd
}

func printReference(ref string, err error) error {
	if err != nil {
		return err
	}
	fmt.Println(ref)
	return nil
}

func debianRootfs() *cobra.Command {
	return &cobra.Command{Use: "debian-rootfs PACKAGE...", Short: "Make a tar of a Debian root with packages, and print its path",
		RunE: func(cmd *cobra.Command, args []string) error {
			return printReference(bed.DebianRootfs(cmd.Context(), os.Stderr, args...))
		}}
}

func deps() *cobra.Command {
	return &cobra.Command{Use: "deps", Args: cobra.NoArgs, Short: "Install what the bed needs from this machine's Debian",
		RunE: func(cmd *cobra.Command, _ []string) error { return bed.EnsurePackages(cmd.Context(), os.Stdout) }}
}

func prepare() *cobra.Command {
	return &cobra.Command{Use: "prepare", Args: cobra.NoArgs,
		Short: "Build and cache all that a bed and the tests need; print what tests use of it as shell variables",
		RunE: func(cmd *cobra.Command, _ []string) error {
			parts, err := bed.Prepare(cmd.Context(), os.Stderr)
			if err != nil {
				return err
			}
			fmt.Printf("LIFEBOAT_TEST_ROOT=%s\nLIFEBOAT_VERSITYGW=%s\nLIFEBOAT_MINIO=%s\nLIFEBOAT_VM_ROOT=%s\nLIFEBOAT_VM_DISK=%s\n",
				parts.Root, parts.Versitygw, parts.Minio, parts.VM.Root, parts.VM.Disk)
			return nil
		}}
}

func usage(c *bed.Cluster) string {
	self := "go run ./test/bed/cmd/bed"
	if dir, err := bed.DefaultDir(context.Background()); err != nil || dir != c.Dir() {
		self += " --dir " + c.Dir()
	}
	b := c.Bucket()
	return strings.NewReplacer("{bed}", self, "{kubeconfig}", c.Kubeconfig, "{kubectl}", c.KubectlPath(), "{bucket}", b.Name,
		"{endpoint}", b.Endpoint, "{local}", b.LocalEndpoint, "{region}", b.Region, "{access}", b.AccessKey, "{secret}", b.SecretKey,
		"{shared}", c.SharedFolder, "{nodeShared}", bed.NodeSharedFolder, "{dir}", c.Dir()).Replace(usageText)
}

const usageText = `
  export KUBECONFIG={kubeconfig}
  kubectl              {kubectl}
                       (or: {bed} kubectl get nodes)
  interruption notice  {bed} notice a --in 2m      (--clear takes it back)
  kill a node          {bed} kill a                (kill -9 of its pid 1)
  bring it back        {bed} start a
  look inside          {bed} exec a bash
  bucket               {bucket} at {endpoint} from nodes and pods, {local} from here
                       region {region}, access key {access}, secret key {secret}; stop it: {bed} bucket stop
  shared folder        {shared}, on every node {nodeShared}
  an image of yours    {bed} push NAME ROOTFS.tar --entrypoint /prog      (prints the reference for any pod's image)
                       a root file system from Debian packages: {bed} debian-rootfs python3
  logs                 {dir}/log, {dir}/nodes/a/log
  take it down         {bed} down
`
