package placement

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

const v3 = "fpu pni ssse3 sse4_1 sse4_2 popcnt cx16 lahf_lm avx avx2 bmi1 bmi2 f16c fma abm movbe xsave erms"

func cpu(flags ...string) string {
	var lines []string
	for _, f := range flags {
		lines = append(lines, "processor\t: 0\nflags\t\t: "+f+"\nbugs\t\t: spectre_v1\n")
	}
	return strings.Join(lines, "\n")
}

func TestCPU(t *testing.T) {
	for _, c := range []struct {
		name, architecture, cpuinfo string
		level                       int
		set                         string
	}{
		{"baseline", "amd64", cpu("fpu sse2"), 1, "0"},
		{"level 2", "amd64", cpu("pni ssse3 sse4_1 sse4_2 popcnt cx16 lahf_lm"), 2, "7f"},
		{"level 3", "amd64", cpu(v3), 3, "78fff"},
		{"a level wants all of those before it", "amd64", cpu("avx512f avx512bw avx512cd avx512dq avx512vl"), 1, "3e000000000000"},
		{"what one processor lacks is not offered", "amd64", cpu(v3, "pni"), 1, "1"},
		{"arm64", "arm64", "Features\t: fp asimd aes crc32 atomics\n", 2, "31"},
		{"unknown architecture", "riscv64", "isa: rv64\n", 1, "0"},
		{"nothing", "amd64", "", 1, "0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			level, set := CPU(c.architecture, c.cpuinfo)
			require.Equal(t, c.level, level)
			require.Equal(t, c.set, set)
		})
	}
}

func TestSetsFitIntoLabels(t *testing.T) {
	for architecture, names := range features {
		require.LessOrEqual(t, len(names), 252, architecture)
		for i, name := range names {
			require.NotContains(t, names[:i], name)
		}
	}
	text, err := os.ReadFile("/proc/cpuinfo")
	require.NoError(t, err)
	level, set := CPU(runtime.GOARCH, string(text))
	here := Offer{Architecture: runtime.GOARCH, CPULevel: level, CPUFeatures: set, Kernel: Version{6, 18, 5}, CRIU: Version{4, 2, 1}}
	for key, value := range here.Labels() {
		require.Empty(t, validation.IsQualifiedName(key))
		require.Empty(t, validation.IsValidLabelValue(value))
	}
	require.Nil(t, Missing(here.Requirements(), OfNode(labels(here))), "a node can restore what it has dumped")
}

func TestVersion(t *testing.T) {
	for text, want := range map[string]string{
		"6.18.5-cloud-amd64": "6.18.5", "6.18": "6.18", "4.2.1": "4.2.1", "5.10.0-rc1": "5.10", "6.1-rc3.7": "6.1", "": "0.0", "x": "0.0",
	} {
		require.Equal(t, want, ParseVersion(text).String(), text)
	}
	require.Equal(t, "6.18", versionOf("61800").String())
	require.Equal(t, Version{}, versionOf(""))
}

// labels are the labels of a node with that offer.
func labels(o Offer) map[string]string {
	out := o.Labels()
	out[corev1.LabelArchStable] = o.Architecture
	return out
}

func offer(change func(*Offer)) Offer {
	o := Offer{Architecture: "amd64", CPULevel: 3, CPUFeatures: "78fff", Kernel: Version{6, 18, 5}, CRIU: Version{4, 2, 1}}
	change(&o)
	return o
}

func same(*Offer) {}

// What Missing says and what the scheduler does with the terms must agree.
func TestMissingAndTerms(t *testing.T) {
	for _, c := range []struct {
		name    string
		node    Offer
		missing []string
	}{
		{"the same", offer(same), nil},
		{"more of everything", offer(func(o *Offer) {
			o.CPULevel, o.CPUFeatures, o.Kernel, o.CRIU = 4, "3e00000078fff", Version{7, 0, 0}, Version{5, 0, 0}
		}), nil},
		{"an older patch of the kernel", offer(func(o *Offer) { o.Kernel = Version{6, 18, 1} }), nil},
		{"another architecture", offer(func(o *Offer) { o.Architecture = "arm64" }), []string{"architecture amd64, not arm64"}},
		{"an older kernel", offer(func(o *Offer) { o.Kernel = Version{6, 1, 9} }), []string{"kernel 6.18 or newer, not 6.1"}},
		{"an older CRIU", offer(func(o *Offer) { o.CRIU = Version{4, 2, 0} }), []string{"CRIU 4.2.1 or newer, not 4.2"}},
		{"a lower level", offer(func(o *Offer) { o.CPULevel, o.CPUFeatures = 2, "7f" }),
			[]string{"CPU features movbe, abm, bmi1, bmi2, xsave, avx, f16c, fma, avx2"}},
		{"one feature of the level's others", offer(func(o *Offer) { o.CPUFeatures = "78ffe" }), []string{"CPU features pni"}},
		{"an agent that labels nothing", Offer{Architecture: "amd64"}, []string{
			"CPU features pni, ssse3, sse4_1, sse4_2, popcnt, cx16, lahf_lm, movbe, abm, bmi1, bmi2, xsave, avx, f16c, fma, avx2",
			"kernel 6.18 or newer, not 0.0", "CRIU 4.2.1 or newer, not 0.0",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			requirements := offer(same).Requirements()
			require.Equal(t, c.missing, Missing(requirements, OfNode(labels(c.node))))
			require.Equal(t, c.missing == nil, schedulable(t, requirements, c.node, corev1.PodSpec{}))
		})
	}
}

// schedulable asks the scheduler's own code.
func schedulable(t *testing.T, requirements map[string]string, o Offer, spec corev1.PodSpec) bool {
	node := &corev1.Node{}
	node.Labels = labels(o)
	for key, value := range node.Labels {
		if value == "" {
			delete(node.Labels, key)
		}
	}
	Require(&spec, Terms(requirements, []map[string]string{node.Labels}))
	ok, err := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: spec}).Match(node)
	require.NoError(t, err)
	return ok
}

func TestNothingKnownIsNothingRequired(t *testing.T) {
	require.Empty(t, Offer{}.Requirements())
	require.Empty(t, Terms(nil, nil))
	require.Nil(t, Missing(nil, offer(same)))
	require.Nil(t, Missing(map[string]string{"of-a-later-version": "x", Image + "main": "sha256:1"}, offer(same)))
}

func TestRequireJoinsWhatThePodHas(t *testing.T) {
	zone := corev1.NodeSelectorRequirement{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}
	arch := corev1.NodeSelectorRequirement{Key: corev1.LabelArchStable, Operator: corev1.NodeSelectorOpIn, Values: []string{"amd64"}}
	byName := []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"n"}}}
	term := func(e ...corev1.NodeSelectorRequirement) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: e}
	}
	for _, c := range []struct {
		name       string
		have, want []corev1.NodeSelectorTerm
	}{
		{"nothing", nil, []corev1.NodeSelectorTerm{term(arch)}},
		{"one", []corev1.NodeSelectorTerm{term(zone)}, []corev1.NodeSelectorTerm{term(zone, arch)}},
		{"alternatives", []corev1.NodeSelectorTerm{term(zone), {MatchFields: byName}},
			[]corev1.NodeSelectorTerm{term(zone, arch), {MatchFields: byName, MatchExpressions: []corev1.NodeSelectorRequirement{arch}}}},
		{"an empty alternative matches nothing", []corev1.NodeSelectorTerm{{}, term(zone)}, []corev1.NodeSelectorTerm{{}, term(zone, arch)}},
		{"there already", []corev1.NodeSelectorTerm{term(arch, zone)}, []corev1.NodeSelectorTerm{term(arch, zone)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := corev1.PodSpec{}
			if c.have != nil {
				spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
					RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: c.have},
				}}
			}
			for range 2 {
				Require(&spec, []corev1.NodeSelectorRequirement{arch})
				require.Equal(t, c.want, spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms)
			}
		})
	}
	spec := corev1.PodSpec{}
	Require(&spec, nil)
	require.Nil(t, spec.Affinity)
}

// A kind of processor that no node has yet is left to its agent, and the list of those that lack something is bounded.
func TestSetsOfFeaturesAreExcluded(t *testing.T) {
	requirements := offer(same).Requirements()
	nodes := []map[string]string{labels(offer(same)), {corev1.LabelArchStable: "arm64", v1alpha1.LabelCPUFeatures: "1"}}
	require.Empty(t, insufficient(requirements, nodes))
	for i := range 100 {
		nodes = append(nodes, labels(offer(func(o *Offer) { o.CPUFeatures = strings.Repeat("1", i%80+1) })))
	}
	require.Len(t, insufficient(requirements, nodes), maxExcluded)
}
