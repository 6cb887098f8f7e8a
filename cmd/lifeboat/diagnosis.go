package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/settings"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// Reasons of a diagnosis that are no condition's.
const (
	reasonNotLabelled  = "NotLabelled"
	reasonNoCheckpoint = "NoCheckpoint"
	reasonNotLooked    = "NotLooked"
)

// Where a finding comes from.
const (
	inSpec    = "the pod's metadata and spec"
	inRunning = "what runs in it, as its node's agent sees it"
	inCluster = "the cluster"
	inTime    = "the time that a notice leaves"
)

// finding is one thing to mend.
type finding struct {
	Reason string `json:"reason"`
	// In says where it was found, Message the cause and the mend.
	In      string `json:"in"`
	Message string `json:"message"`
}

// diagnosis is what is known of a pod.
type diagnosis struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Node      string `json:"node,omitempty"`
	// Survives says that nothing is known to keep the pod from surviving a notice.
	Survives bool `json:"survives"`
	// Verdict is that of the node's agent: Safe, AtRisk, Unprotected; empty where there is none.
	Verdict string `json:"verdict,omitempty"`
	// Reasons are why it does not, Notes what else is worth knowing.
	Reasons []finding `json:"reasons"`
	Notes   []finding `json:"notes"`
}

// diagnose tells every reason why pod would not survive a notice. checkpoint is nil where there is none.
func diagnose(pod *corev1.Pod, checkpoint *v1alpha1.Checkpoint) diagnosis {
	d := diagnosis{Namespace: pod.Namespace, Pod: pod.Name, Node: pod.Spec.NodeName, Reasons: []finding{}, Notes: []finding{}}
	for _, o := range obstacle.OfPod(pod) {
		d.stands(o.Reason, inSpec, o.Message)
	}
	for _, f := range faultsOf(pod) {
		d.note(v1alpha1.ReasonSettingInvalid, inSpec, f)
	}
	labelled := pod.Labels[v1alpha1.LabelProtect] == "true"
	switch ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed; {
	case ended:
		d.stands(v1alpha1.ReasonPodEnded, inSpec, "the pod has ended: "+string(pod.Status.Phase))
	case !labelled:
		d.stands(reasonNotLabelled, inSpec, fmt.Sprintf("the pod lacks the label that asks for protection; kubectl -n %s label --overwrite pod %s %s=true",
			pod.Namespace, pod.Name, v1alpha1.LabelProtect))
	case checkpoint == nil || checkpoint.Status.Pod == nil || checkpoint.Status.Pod.UID != pod.UID:
		d.stands(reasonNoCheckpoint, inCluster, "the controller has made no Checkpoint for this pod; wait some seconds, then look at "+
			"kubectl -n lifeboat-system get pods, and the log of deployment/lifeboat-controller")
	default:
		d.ofStatus(&checkpoint.Status)
	}
	d.Survives = len(d.Reasons) == 0
	return d
}

// ofStatus adds what controller and agent say.
func (d *diagnosis) ofStatus(s *v1alpha1.CheckpointStatus) {
	dumpable := s.Condition(v1alpha1.ConditionDumpable)
	if c := s.Condition(v1alpha1.ConditionProtectable); c == nil {
		d.note(reasonNoCheckpoint, inCluster, "the controller has not judged the pod yet; ask again")
	} else if c.Status != metav1.ConditionTrue && !v1alpha1.FoundOnNode(c.Reason) {
		d.stands(c.Reason, inCluster, c.Message)
	} else if dumpable == nil {
		d.note(reasonNotLooked, inRunning, "the agent of the node has not looked at what runs in the pod yet; ask again in some seconds")
	}
	if dumpable != nil && dumpable.Status == metav1.ConditionFalse {
		for _, o := range obstacle.Parse(dumpable.Message) {
			d.stands(o.Reason, inRunning, o.Message)
		}
	}
	current := s.Condition(v1alpha1.ConditionCurrent)
	if s.Protection == nil || current == nil {
		return
	}
	d.Verdict = s.Protection.Level
	switch {
	case d.Verdict == v1alpha1.LevelSafe || v1alpha1.FoundOnNode(current.Reason) && current.Reason != v1alpha1.ReasonFilesTooLarge:
	case d.Verdict == v1alpha1.LevelUnprotected:
		d.stands(current.Reason, inTime, current.Message)
	default:
		d.note(current.Reason, inTime, current.Message)
	}
}

// stands adds a reason, once.
func (d *diagnosis) stands(reason, in, message string) {
	if !slices.ContainsFunc(d.Reasons, func(f finding) bool { return f.Reason == reason }) {
		d.Reasons = append(d.Reasons, finding{reason, in, message})
	}
}

func (d *diagnosis) note(reason, in, message string) {
	d.Notes = append(d.Notes, finding{reason, in, message})
}

func faultsOf(pod *corev1.Pod) []string {
	_, faults := settings.Parse(pod.Annotations)
	if len(faults) == 0 {
		return nil
	}
	return strings.Split(settings.Text(faults), "\n")
}

// text is the diagnosis for people.
func (d *diagnosis) text(w io.Writer) error {
	where, state := "", "nothing stands in the way of its survival"
	if d.Node != "" {
		where = " on node " + d.Node
	}
	if d.Verdict != "" {
		state += "; verdict: " + d.Verdict
	}
	if !d.Survives {
		state = "would not survive a notice"
	}
	out := &strings.Builder{}
	fmt.Fprintf(out, "pod %s/%s%s: %s\n", d.Namespace, d.Pod, where, state)
	for _, part := range []struct {
		title    string
		findings []finding
	}{{"To mend", d.Reasons}, {"To know", d.Notes}} {
		if len(part.findings) > 0 {
			fmt.Fprintf(out, "\n%s:\n", part.title)
		}
		for _, f := range part.findings {
			fmt.Fprintf(out, "  %s (%s)\n%s", f.Reason, f.In, wrapped(f.Message, "    ", 110))
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// wrapped is text with its parts in lines of their own, so that a command stays whole, each behind indent and of at most width
// where its words allow.
func wrapped(text, indent string, width int) string {
	out := &strings.Builder{}
	for part := range strings.SplitSeq(text, "; ") {
		line := indent
		for _, word := range strings.Fields(part) {
			if line != indent && len(line)+1+len(word) > width {
				fmt.Fprintln(out, line)
				line = indent
			}
			if line != indent {
				line += " "
			}
			line += word
		}
		fmt.Fprintln(out, line)
	}
	return out.String()
}
