package bench

import (
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// rounds is how often everything is measured; rows show medians. Ours and theirs take turns, so that what else runs on
// the machine meets both.
const rounds = 3

// series are measured values by name.
type series map[string][]float64

func (s series) add(name string, value float64) { s[name] = append(s[name], value) }

// median of what was added under the name. It panics where nothing was: no row may show what was not measured.
func (s series) median(name string) float64 {
	if len(s[name]) == 0 {
		panic("bench: nothing was measured as " + name)
	}
	return median(s[name])
}

// median of one value or more.
func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	half := len(values) / 2
	if len(values)%2 == 0 {
		return (values[half-1] + values[half]) / 2
	}
	return values[half]
}

// total is the sum of values.
func total(values []float64) float64 {
	var sum float64
	for _, value := range values {
		sum += value
	}
	return sum
}

// wall and cpu are how take names what it measured.
func wall(name string) string { return name + ", wall" }
func cpu(name string) string  { return name + ", cpu" }

// take measures the seconds of wall clock and of CPU, all threads of this process, that fn takes. Garbage of what came
// before is collected first.
func (s series) take(name string, fn func() error) error {
	runtime.GC()
	cpuBefore, err := cpuSeconds()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := fn(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	s.add(wall(name), time.Since(start).Seconds())
	cpuAfter, err := cpuSeconds()
	s.add(cpu(name), cpuAfter-cpuBefore)
	return err
}

func cpuSeconds() (float64, error) {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0, fmt.Errorf("ask for CPU time: %w", err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds(), nil
}
