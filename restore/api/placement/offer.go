// Package placement says on which nodes a generation can be restored. The agent of the source records what its node is
// (Offer.Requirements, in status.generation.requirements); every agent labels its node with what that offers
// (Offer.Labels); admission turns the one into node affinity over the other (Terms, Require), and the controller and the
// agent that is to claim compare them once more (Missing). It is pure.
//
// What must hold for a restore by CRIU:
//
//   - the architecture is the same;
//   - the processor has every feature that programs rely on (see features): they chose their code when they started;
//   - the kernel is no older, for programs remember which system calls they found, and CRIU's images what it offered;
//   - CRIU is no older: an older one does not know a newer one's images.
//
// Labels are few, and ordered numbers where order counts, so that node affinity can ask for "at least". Features have no
// order: a label holds their set, and affinity excludes the sets on present nodes that lack something. A node that comes
// later is held to the level alone by the scheduler, and to all of it by its agent.
package placement

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// Names of requirements. A name that is not known here is nobody's business on a node.
const (
	// Architecture is Go's name of it, which is Kubernetes' too.
	Architecture = "architecture"
	// CPULevel is the level of CPU as a number.
	CPULevel = "cpu-level"
	// CPUFeatures is the set of CPU: hexadecimal.
	CPUFeatures = "cpu-features"
	// Kernel and CRIU are versions, major.minor and major.minor.patch.
	Kernel = "kernel"
	CRIU   = "criu"
	// Image with a container's name behind it is the image that the container ran, by digest.
	Image = "image/"
)

// Offer is what a node offers to generations, and what a generation taken there requires.
type Offer struct {
	Architecture string
	CPULevel     int
	// CPUFeatures is the set of CPU.
	CPUFeatures string
	Kernel      Version
	CRIU        Version
}

// Version is major, minor and patch. The zero value is one that is not known.
type Version [3]int

// ParseVersion reads the numbers at the beginning of a text such as "6.18.5-cloud" or "4.2.1"; zero where there are none.
func ParseVersion(text string) Version {
	var v Version
	for i, part := range strings.SplitN(text, ".", len(v)) {
		digits := part[:len(part)-len(strings.TrimLeft(part, "0123456789"))]
		n, err := strconv.Atoi(digits)
		if err != nil {
			break
		}
		v[i] = n
		if digits != part {
			break
		}
	}
	return v
}

// number orders versions, for node affinity compares whole numbers only.
func (v Version) number() int { return v[0]*10000 + min(v[1], 99)*100 + min(v[2], 99) }

// minor leaves out the patch.
func (v Version) minor() Version { return Version{v[0], v[1]} }

// String leaves out a patch of zero.
func (v Version) String() string {
	if v[2] == 0 {
		return fmt.Sprintf("%d.%d", v[0], v[1])
	}
	return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2])
}

func versionOf(number string) Version {
	n, err := strconv.Atoi(number)
	if err != nil {
		return Version{}
	}
	return Version{n / 10000, n / 100 % 100, n % 100}
}

// Labels are what the agent puts on its node. What is not known has an empty value, so that a label of before goes.
func (o Offer) Labels() map[string]string {
	number := func(n int) string {
		if n == 0 {
			return ""
		}
		return strconv.Itoa(n)
	}
	return map[string]string{
		v1alpha1.LabelCPULevel:    number(o.CPULevel),
		v1alpha1.LabelCPUFeatures: o.CPUFeatures,
		// A stable kernel's patches change nothing that a program sees.
		v1alpha1.LabelKernel: number(o.Kernel.minor().number()),
		v1alpha1.LabelCRIU:   number(o.CRIU.number()),
	}
}

// OfNode reads an offer from a node's labels.
func OfNode(labels map[string]string) Offer {
	level, _ := strconv.Atoi(labels[v1alpha1.LabelCPULevel])
	return Offer{
		Architecture: labels[corev1.LabelArchStable], CPULevel: level, CPUFeatures: labels[v1alpha1.LabelCPUFeatures],
		Kernel: versionOf(labels[v1alpha1.LabelKernel]), CRIU: versionOf(labels[v1alpha1.LabelCRIU]),
	}
}

// Requirements are what a generation taken on a node with this offer requires. What is not known is not required.
func (o Offer) Requirements() map[string]string {
	out := map[string]string{}
	for name, value := range map[string]string{
		Architecture: o.Architecture, CPULevel: strconv.Itoa(o.CPULevel), CPUFeatures: o.CPUFeatures,
		Kernel: o.Kernel.minor().String(), CRIU: o.CRIU.String(),
	} {
		if value != "" && value != "0" && value != (Version{}).String() {
			out[name] = value
		}
	}
	return out
}

// Missing says in words what the node does not offer of what a generation requires, the gravest first; nil where it can
// be restored there.
func Missing(requirements map[string]string, o Offer) []string {
	if need := requirements[Architecture]; need != "" && need != o.Architecture {
		return []string{fmt.Sprintf("architecture %s, not %s", need, cmp.Or(o.Architecture, "an unknown one"))}
	}
	var out []string
	if names := lacking(o.Architecture, cmp.Or(requirements[CPUFeatures], "0"), o.CPUFeatures); len(names) > 0 {
		out = append(out, "CPU features "+strings.Join(names, ", "))
	} else if need, err := strconv.Atoi(requirements[CPULevel]); err == nil && need > o.CPULevel {
		out = append(out, fmt.Sprintf("CPU level %d, not %d", need, o.CPULevel))
	}
	if need := ParseVersion(requirements[Kernel]).minor(); need.number() > o.Kernel.minor().number() {
		out = append(out, fmt.Sprintf("kernel %s or newer, not %s", need, o.Kernel))
	}
	if need := ParseVersion(requirements[CRIU]); need.number() > o.CRIU.number() {
		out = append(out, fmt.Sprintf("CRIU %s or newer, not %s", need, o.CRIU))
	}
	return out
}
