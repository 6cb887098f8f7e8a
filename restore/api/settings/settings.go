// Package settings reads what a pod's owner asks for by annotations, in place of the node's defaults.
//
//	lifeboat.dev/recovery-point  from one safety dump to the next: a duration such as 2m
//	lifeboat.dev/interval        from one round to the next while nothing presses: a duration
//	lifeboat.dev/max-freeze      how long a safety dump may hold the pod still: a duration
//	lifeboat.dev/max-cpu         cores that its rounds may take: 0.5 or 500m
//	lifeboat.dev/keep-pod-ip-alias  true: sockets bound to the pod's own address are restored, and it is kept as an alias
//	lifeboat.dev/recover         what may be restored: latest, final-only (then no safety dumps are taken), or never (then
//	                             nothing is stored, and the pod that follows begins anew)
//
// A value that is none leaves the default in place: a slip of the pen leaves nobody unprotected, but it is told.
package settings

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// Settings are what a pod's owner asks for. The zero value of each stands for the node's default.
type Settings struct {
	// RecoveryPoint is from one safety dump to the next, Interval from one round to the next.
	RecoveryPoint, Interval time.Duration
	// MaxFreeze is how long a safety dump may hold the pod still.
	MaxFreeze time.Duration
	// MaxCPU is how many cores its rounds may take.
	MaxCPU float64
	// FinalOnly says that nobody may go back to a safety dump, Never that nobody may go on from any generation at all. Never
	// comes with FinalOnly.
	FinalOnly, Never bool
	// KeepPodIPAlias says that the pod that continues it gets its addresses as aliases.
	KeepPodIPAlias bool
}

// Fault is an annotation that is not understood.
type Fault struct {
	Annotation, Value string
	// Message says why, and what to write.
	Message string
}

// String names the annotation, the cause and the mend.
func (f Fault) String() string {
	return fmt.Sprintf("annotation %s, %q: %s", f.Annotation, f.Value, f.Message)
}

// parsers are the annotations that set something.
var parsers = map[string]func(*Settings, string) error{
	v1alpha1.AnnotationRecoveryPoint: func(s *Settings, v string) (err error) {
		s.RecoveryPoint, err = duration(v, 5*time.Second, 24*time.Hour)
		return err
	},
	v1alpha1.AnnotationInterval: func(s *Settings, v string) (err error) {
		s.Interval, err = duration(v, time.Second, 10*time.Minute)
		return err
	},
	v1alpha1.AnnotationMaxFreeze: func(s *Settings, v string) (err error) {
		s.MaxFreeze, err = duration(v, 10*time.Millisecond, 10*time.Minute)
		return err
	},
	v1alpha1.AnnotationMaxCPU:  cores,
	v1alpha1.AnnotationRecover: recovery,
	v1alpha1.AnnotationKeepPodIPAlias: func(s *Settings, v string) error {
		if v != "true" && v != "false" {
			return errors.New("not known; write true or false, in quotes")
		}
		s.KeepPodIPAlias = v == "true"
		return nil
	},
}

// others are the annotations that mean something to Lifeboat beside those.
var others = []string{
	v1alpha1.AnnotationExclude, v1alpha1.AnnotationOnRestoreFailure, v1alpha1.AnnotationOnWaiting, v1alpha1.AnnotationRestoreFrom,
}

// Any tells whether there is an annotation that sets something, or is meant to.
func Any(annotations map[string]string) bool {
	return len(ours(annotations)) > 0
}

// Parse reads a pod's annotations. What is not understood is among the faults, and the default holds in its place; so is an
// annotation of Lifeboat's domain that means nothing.
func Parse(annotations map[string]string) (Settings, []Fault) {
	var s Settings
	var faults []Fault
	for _, name := range ours(annotations) {
		value := annotations[name]
		parse, known := parsers[name]
		if !known {
			faults = append(faults, Fault{name, value, "means nothing to Lifeboat; write one of " + strings.Join(names(), ", ")})
			continue
		}
		next := s
		if err := parse(&next, value); err != nil {
			faults = append(faults, Fault{name, value, err.Error()})
			continue
		}
		s = next
	}
	return s, faults
}

// Never tells whether a pod of these annotations never goes on from a generation, nor has any taken.
func Never(annotations map[string]string) bool {
	s, _ := Parse(annotations)
	return s.Never
}

// FinalOnly tells whether a pod of these annotations never goes back to a safety generation.
func FinalOnly(annotations map[string]string) bool {
	s, _ := Parse(annotations)
	return s.FinalOnly
}

// Text has a line for each fault.
func Text(faults []Fault) string {
	lines := make([]string, len(faults))
	for i, f := range faults {
		lines[i] = f.String() + "; the node's default holds"
	}
	return strings.Join(lines, "\n")
}

// ours are the annotations of Lifeboat's domain that are not read elsewhere, sorted.
func ours(annotations map[string]string) []string {
	var out []string
	for name := range annotations {
		if strings.HasPrefix(name, v1alpha1.GroupName+"/") && !slices.Contains(others, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func names() []string { return slices.Sorted(maps.Keys(parsers)) }

func duration(value string, least, most time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil {
		return 0, errors.New("not a duration; write a number and a unit, as in 90s, 5m or 1h30m")
	}
	if d < least || d > most {
		return 0, fmt.Errorf("out of bounds; write %s to %s", least, most)
	}
	return d, nil
}

func cores(s *Settings, value string) error {
	q, err := resource.ParseQuantity(value)
	if err != nil {
		return errors.New("not a number of cores; write 0.5 or 500m")
	}
	n := q.AsApproximateFloat64()
	if n < 0.01 || n > 64 {
		return errors.New("out of bounds; write 10m to 64")
	}
	s.MaxCPU = n
	return nil
}

func recovery(s *Settings, value string) error {
	switch value {
	case "latest":
	case "final-only":
		s.FinalOnly = true
	case "never":
		s.FinalOnly, s.Never = true, true
	default:
		return errors.New("not known; write latest, final-only or never")
	}
	return nil
}
