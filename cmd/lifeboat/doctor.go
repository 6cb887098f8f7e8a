package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/lifeboat-dev/lifeboat/restore/api/checkpoints"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

const doctorExitHelp = `Exit status: 0 all is well; 1 it could not be done; 2 wrong usage; 3 something stands in the way, or there is no such
object.`

// doctor is what its commands share: how the cluster is reached, and how the answer is written.
type doctor struct {
	*session
	cluster *genericclioptions.ConfigFlags
	output  string
}

// newDoctorCommand is `lifeboat doctor`: what is wrong, and how it is mended.
func newDoctorCommand(s *session) *cobra.Command {
	d := &doctor{session: s, cluster: genericclioptions.NewConfigFlags(true)}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Why a pod cannot be protected, and how that is mended",
		Long:  "Asks the cluster that the kubeconfig names.\n\n" + doctorExitHelp,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return errUsage{fmt.Errorf("unknown command %q: `lifeboat doctor --help` lists them", args[0])}
		}
		return cmd.Help()
	}
	flags := cmd.PersistentFlags()
	d.cluster.AddFlags(flags)
	flags.StringVarP(&d.output, "output", "o", "text", "text, or json or yaml")
	cmd.AddCommand(d.newPod())
	return cmd
}

func (d *doctor) newPod() *cobra.Command {
	return &cobra.Command{
		Use:   "pod NAME",
		Short: "Every reason why a pod would not survive its node, with the mend",
		Long: "Reads the pod's spec, and on its Checkpoint what its node's agent has found. A pod without the label is judged by its\n" +
			"spec alone.\n\n" + doctorExitHelp,
		Example: "  lifeboat doctor pod train -n team-a",
		Args:    exactArgs(1, "the NAME of a pod"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := d.begin(); err != nil {
				return err
			}
			pod, checkpoint, err := d.fetch(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			result := diagnose(pod, checkpoint)
			if err := d.write(result, result.text); err != nil {
				return err
			}
			if !result.Survives {
				return found{fmt.Sprintf("pod %s/%s would not survive a notice", result.Namespace, result.Pod)}
			}
			return nil
		},
	}
}

// begin checks the flags. What fails afterwards is no wrong usage.
func (d *doctor) begin() error {
	if d.output != "text" && d.output != "json" && d.output != "yaml" {
		return errUsage{fmt.Errorf("--output: %q is neither text, json nor yaml", d.output)}
	}
	d.started = true
	return nil
}

// fetch reads the pod and its Checkpoint, nil where there is none.
func (d *doctor) fetch(ctx context.Context, name string) (*corev1.Pod, *v1alpha1.Checkpoint, error) {
	config, err := d.cluster.ToRESTConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("find the cluster: %w; give --kubeconfig or set KUBECONFIG", err)
	}
	namespace, _, err := d.cluster.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, nil, fmt.Errorf("find the namespace: %w; give --namespace", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("make client of the API server: %w", err)
	}
	points, err := checkpoints.New(config)
	if err != nil {
		return nil, nil, err
	}
	pod, err := client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil, found{fmt.Sprintf("there is no pod %s in namespace %s: `kubectl -n %s get pods` lists them, --namespace names another one",
			name, namespace, namespace)}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("get pod %s/%s: %w", namespace, name, err)
	}
	checkpoint, err := points.Get(ctx, namespace, name)
	if apierrors.IsNotFound(err) {
		return pod, nil, nil
	}
	return pod, checkpoint, err
}

// write prints a result as begin has found it asked for.
func (d *doctor) write(result any, text func(io.Writer) error) error {
	switch d.output {
	case "text":
		return text(d.stdout)
	case "yaml":
		raw, err := yaml.Marshal(result)
		if err == nil {
			_, err = d.stdout.Write(raw)
		}
		return err
	}
	encoder := json.NewEncoder(d.stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(result)
}
