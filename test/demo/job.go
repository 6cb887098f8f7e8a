package demo

import (
	_ "embed"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// Script is the training job.
//
//go:embed job/train.py
var Script []byte

// Where the job finds its parts.
const (
	// ScriptPath is the job's place in its image.
	ScriptPath = "/job/train.py"
	logFolder  = "/logs"
	logFile    = logFolder + "/train.log"
)

// Packages are the Debian packages that the job's image needs.
func Packages() []string { return []string{"python3-sklearn"} }

// Job describes one run of the training job.
type Job struct {
	// Name is the pod's name, Image its image.
	Name, Image string
	// Node is where it would rather run. Nothing binds it there.
	Node string
	// Protect labels the pod: the one thing that Lifeboat asks for.
	Protect bool
	Steps   int
	// Pace is the pause after each step.
	Pace time.Duration
	// Linger is how long it stays after its last line.
	Linger time.Duration
	// BallastMB is how much random memory it holds besides the network, in MiB.
	BallastMB int
}

// Pod is the job as an ordinary hardened pod: not root, the default seccomp profile, no capabilities, a root file system
// that it cannot write to, no token for the API.
func (j Job) Pod() *corev1.Pod {
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: j.Name, Namespace: metav1.NamespaceDefault, Labels: map[string]string{"app": j.Name}},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			DNSPolicy:                     corev1.DNSDefault,
			AutomountServiceAccountToken:  new(false),
			EnableServiceLinks:            new(false),
			TerminationGracePeriodSeconds: new(int64(5)),
			Affinity:                      prefer(j.Node),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: new(true), RunAsUser: new(int64(1000)), RunAsGroup: new(int64(1000)), FSGroup: new(int64(1000)),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{j.container()},
			Volumes:    []corev1.Volume{{Name: "logs", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		},
	}
	if j.Protect {
		pod.Labels[v1alpha1.LabelProtect] = "true"
	}
	return pod
}

func (j Job) container() corev1.Container {
	env := func(name, value string) corev1.EnvVar { return corev1.EnvVar{Name: name, Value: value} }
	number := func(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }
	return corev1.Container{
		Name:    "train",
		Image:   j.Image,
		Command: []string{"/usr/bin/python3", "-B", ScriptPath},
		Env: []corev1.EnvVar{
			env("STEPS", strconv.Itoa(j.Steps)), env("STEP_SECONDS", number(j.Pace)), env("LINGER_SECONDS", number(j.Linger)),
			env("BALLAST_MB", strconv.Itoa(j.BallastMB)), env("LOG", logFile), env("OPENBLAS_NUM_THREADS", "1"),
		},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
		VolumeMounts: []corev1.VolumeMount{{Name: "logs", MountPath: logFolder}},
	}
}

// prefer asks the scheduler for a node by name, and leaves it free to choose another.
func prefer(node string) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
			Weight: 100,
			Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{
				Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
			}}},
		}},
	}}
}
