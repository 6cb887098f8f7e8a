package controller

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

func TestObstacles(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*corev1.Pod)
		want   []string
		says   string
	}{
		"none":              {func(*corev1.Pod) {}, nil, ""},
		"our runtime class": {func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr.To("lifeboat") }, nil, ""},
		"host pid":          {func(p *corev1.Pod) { p.Spec.HostPID = true }, []string{v1alpha1.ReasonHostPID}, "remove spec.hostPID"},
		"host ipc":          {func(p *corev1.Pod) { p.Spec.HostIPC = true }, []string{v1alpha1.ReasonHostIPC}, "remove spec.hostIPC"},
		"host network":      {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, []string{v1alpha1.ReasonHostNetwork}, "remove spec.hostNetwork"},
		"shared pids": {func(p *corev1.Pod) { p.Spec.ShareProcessNamespace = ptr.To(true) },
			[]string{v1alpha1.ReasonSharedPID}, "remove spec.shareProcessNamespace"},
		"host path": {func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
		}, []string{v1alpha1.ReasonHostPathVolume}, "hostPath volumes data"},
		"two containers, an init container and a sidecar": {several, nil, ""},
		"one of two has ended": {func(p *corev1.Pod) {
			several(p)
			p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
			p.Status.ContainerStatuses = []corev1.ContainerStatus{state("other", terminated(0))}
		}, []string{v1alpha1.ReasonContainerEnded}, "containers other have ended while others of the pod run"},
		"one of two has failed and is not started again": {func(p *corev1.Pod) {
			several(p)
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Status.ContainerStatuses = []corev1.ContainerStatus{state("other", terminated(1))}
		}, []string{v1alpha1.ReasonContainerEnded}, "containers other"},
		"one of two is being started again": {func(p *corev1.Pod) {
			several(p)
			p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
			p.Status.ContainerStatuses = []corev1.ContainerStatus{state("other", terminated(1))}
		}, nil, ""},
		"the init container has ended": {func(p *corev1.Pod) {
			several(p)
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{state("init", terminated(0))}
		}, nil, ""},
		"one is being created": {func(p *corev1.Pod) {
			several(p)
			p.Status.ContainerStatuses = []corev1.ContainerStatus{state("other", waits("ContainerCreating"))}
		}, nil, ""},
		"the sidecar crashes again and again": {func(p *corev1.Pod) {
			several(p)
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{state("sidecar", waits("CrashLoopBackOff"))}
		}, []string{v1alpha1.ReasonContainerWaiting}, "containers sidecar (CrashLoopBackOff) do not run"},
		"owned": {func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "train", Controller: ptr.To(true)}}
		}, nil, ""},
		"daemon": {func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "train", Controller: ptr.To(true)}}
		}, []string{v1alpha1.ReasonNodeBound}, "owned by DaemonSet train"},
		"gpu": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"nvidia.com/gpu": resource.MustParse("1"), "cpu": resource.MustParse("1"), "hugepages-2Mi": resource.MustParse("2Mi")}
		}, []string{v1alpha1.ReasonDevices}, "devices nvidia.com/gpu:"},
		"block volume": {func(p *corev1.Pod) { p.Spec.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: "raw"}} },
			[]string{v1alpha1.ReasonDevices}, "volumeDevice raw"},
		"resource claim": {func(p *corev1.Pod) { p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu"}} },
			[]string{v1alpha1.ReasonDevices}, "resourceClaim gpu"},
		"other runtime": {func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr.To("gvisor") },
			[]string{v1alpha1.ReasonRuntimeClass}, "set runtimeClassName: lifeboat"},
		"exclusions": {func(p *corev1.Pod) {
			p.Annotations = map[string]string{v1alpha1.AnnotationExclude: "layer:tmp/**,volume:scratch"}
		}, nil, ""},
		"bad exclusion": {func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.AnnotationExclude: "layer:/tmp"} },
			[]string{v1alpha1.ReasonExclusionInvalid}, "write tmp"},
		"several": {func(p *corev1.Pod) { p.Spec.HostNetwork, p.Spec.HostPID = true, true },
			[]string{v1alpha1.ReasonHostPID, v1alpha1.ReasonHostNetwork}, "hostNetwork"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := bare(tc.change)
			var have []string
			for _, o := range obstacle.OfPod(pod) {
				have = append(have, o.Reason)
			}
			require.Equal(t, tc.want, have)
			verdict := judge(pod, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1alpha1.LabelRuntimeReady: "true"}}}, nil)
			require.Contains(t, verdict.message, tc.says)
			require.Equal(t, tc.want == nil, verdict.status == metav1.ConditionTrue)
		})
	}
}

// several gives a pod a second container, an init container and a native sidecar.
func several(p *corev1.Pod) {
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "other"})
	p.Spec.InitContainers = []corev1.Container{{Name: "init"}, {Name: "sidecar", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}}
}

func state(name string, s corev1.ContainerState) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: name, State: s}
}

func terminated(code int32) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}
}

func waits(reason string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
}

func TestProtectableFollowsThePod(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*corev1.Pod)
		node   func(*corev1.Node)
		status metav1.ConditionStatus
		reason string
	}{
		"protected":     {nil, nil, metav1.ConditionTrue, v1alpha1.ReasonProtected},
		"not scheduled": {func(p *corev1.Pod) { p.Spec.NodeName = "" }, nil, metav1.ConditionUnknown, v1alpha1.ReasonNotScheduled},
		"obstacle":      {func(p *corev1.Pod) { p.Spec.HostPID = true }, nil, metav1.ConditionFalse, v1alpha1.ReasonHostPID},
		"no agent": {nil, func(n *corev1.Node) { delete(n.Labels, v1alpha1.LabelRuntimeReady) },
			metav1.ConditionFalse, v1alpha1.ReasonNodeNotReady},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if tc.node != nil {
				w.setNode("a", tc.node)
			}
			if tc.change == nil {
				tc.change = func(*corev1.Pod) {}
			}
			w.userCreates(tc.change)
			w.settle()
			c := w.checkpoint().Status.Condition(v1alpha1.ConditionProtectable)
			require.Equal(t, []string{string(tc.status), tc.reason}, []string{string(c.Status), c.Reason})
			if tc.status != metav1.ConditionUnknown {
				require.Equal(t, []string{tc.reason}, w.reasons("Pod"))
				require.Equal(t, []string{tc.reason}, w.reasons("Checkpoint"))
			}
			applied := w.applied
			w.settle()
			require.Equal(t, applied, w.applied, "a second look writes nothing")
		})
	}
}

func TestProtectableTurnsWithTheNode(t *testing.T) {
	w := newWorld(t)
	w.userCreates()
	w.setNode("a", func(n *corev1.Node) { delete(n.Labels, v1alpha1.LabelRuntimeReady) })
	w.settle()
	require.False(t, w.checkpoint().Status.IsTrue(v1alpha1.ConditionProtectable))
	w.setNode("a", func(n *corev1.Node) { n.Labels = map[string]string{v1alpha1.LabelRuntimeReady: "true"} })
	w.settle()
	require.True(t, w.checkpoint().Status.IsTrue(v1alpha1.ConditionProtectable))
	w.notice()
	w.setNode("a", func(n *corev1.Node) { delete(n.Labels, v1alpha1.LabelRuntimeReady) })
	w.settle()
	require.True(t, w.checkpoint().Status.IsTrue(v1alpha1.ConditionProtectable), "an interruption is no reason to give up")
}

func TestLabelValues(t *testing.T) {
	for value, tc := range map[string]struct {
		checkpoint bool
		events     []string
	}{
		"true": {true, []string{v1alpha1.ReasonProtected}}, "false": {}, "": {events: []string{EventInvalidLabel}},
		"True": {events: []string{EventInvalidLabel}}, "yes": {events: []string{EventInvalidLabel}},
	} {
		t.Run("value "+value, func(t *testing.T) {
			w := newWorld(t)
			w.userCreates(func(p *corev1.Pod) { p.Labels[v1alpha1.LabelProtect] = value })
			w.settle()
			w.settle()
			require.Equal(t, tc.checkpoint, w.checkpoint() != nil)
			require.Equal(t, tc.events, w.reasons("Pod"))
		})
	}
}

func TestTemplateLeavesOutWhatBelongedToOnePod(t *testing.T) {
	pod := bare(func(p *corev1.Pod) {
		p.Annotations = map[string]string{v1alpha1.AnnotationRestoreFrom: "train/3", v1alpha1.AnnotationOnRestoreFailure: "fail", "mine": "x"}
		p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "queue"}}
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{}}
		p.Spec.Volumes = []corev1.Volume{{Name: "kube-api-access-x7"}}
		p.UID = "one"
	})
	template, err := TemplateOf(pod)
	require.NoError(t, err)
	ck := &v1alpha1.Checkpoint{Spec: v1alpha1.CheckpointSpec{Identity: v1alpha1.Identity{Name: "train"}, Template: template}}
	ck.Namespace, ck.Name = "work", "train"
	have, err := ReplacementOf(ck, &v1alpha1.GenerationReference{Number: 4})
	require.NoError(t, err)
	want := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "work", Name: "train", Labels: pod.Labels,
		Annotations: map[string]string{v1alpha1.AnnotationRestoreFrom: "train/4", v1alpha1.AnnotationOnRestoreFailure: "fail", "mine": "x"},
	}, Spec: corev1.PodSpec{
		RuntimeClassName: ptr.To("lifeboat"), Containers: pod.Spec.Containers, Volumes: pod.Spec.Volumes,
	}}
	require.Equal(t, want, have)
}

func TestAReplacementNeedsATemplate(t *testing.T) {
	_, err := ReplacementOf(&v1alpha1.Checkpoint{}, &v1alpha1.GenerationReference{Number: 1})
	require.ErrorContains(t, err, "no spec.template")
}
