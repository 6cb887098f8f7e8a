package rows

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Series are measured values by name.
type Series map[string][]float64

// Add notes a value under the name.
func (s Series) Add(name string, value float64) { s[name] = append(s[name], value) }

// Median of what was added under the name.
func (s Series) Median(name string) float64 { return Median(s[name]) }

// Median of values; NaN of none, which Encode refuses: no row may show what was not measured.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	values = slices.Sorted(slices.Values(values))
	half := len(values) / 2
	if len(values)%2 == 0 {
		return (values[half-1] + values[half]) / 2
	}
	return values[half]
}

// Total is the sum of values.
func Total(values []float64) float64 {
	var sum float64
	for _, value := range values {
		sum += value
	}
	return sum
}

// Wall is how Take names the seconds on the clock that it measured.
func Wall(name string) string { return name + ", wall" }

// CPU is how Take names the seconds of processor time that it measured.
func CPU(name string) string { return name + ", cpu" }

// Take measures the seconds of wall clock and of CPU, all threads of this process, that fn takes. Garbage of what came
// before is collected first.
func (s Series) Take(name string, fn func() error) error {
	runtime.GC()
	cpuBefore, err := cpuSeconds()
	if err != nil {
		return err
	}
	busyBefore, err := busySeconds()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := fn(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	took := time.Since(start).Seconds()
	cpuAfter, fault := cpuSeconds()
	busyAfter, err := busySeconds()
	if err := errors.Join(fault, err); err != nil {
		return err
	}
	s.Add(Wall(name), took)
	s.Add(CPU(name), cpuAfter-cpuBefore)
	others := (busyAfter - busyBefore) - (cpuAfter - cpuBefore)
	s.Add(OtherLoad, 100*others/(took*float64(runtime.NumCPU())))
	return nil
}

func cpuSeconds() (float64, error) {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0, fmt.Errorf("ask for CPU time: %w", err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds(), nil
}

// OtherLoad is how Take names what share of the machine's CPU others used meanwhile, in percent.
const OtherLoad = "others, cpu"

// busySeconds is the CPU time that the machine has spent so far, whoever used it. Source: proc(5), /proc/stat.
func busySeconds() (float64, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read the machine's CPU time: %w", err)
	}
	return parseBusy(string(stat))
}

// userHz is the unit of /proc/stat, the same on all of Linux's machines that this runs on.
const userHz = 100

// parseBusy adds up the first line, idle and waiting (its fields 4 and 5) aside, and guests, who are in user time.
func parseBusy(stat string) (float64, error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("read the machine's CPU time: first line %q", line)
	}
	var busy float64
	for i, field := range fields[1:9] {
		ticks, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the machine's CPU time: %w", err)
		}
		if i != 3 && i != 4 {
			busy += float64(ticks)
		}
	}
	return busy / userHz, nil
}
