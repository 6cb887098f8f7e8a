package demo

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Step is one step of the training job, as job/train.py prints it.
type Step struct {
	Number  int
	Loss    float64
	Token   string
	Weights string
	// At is when the container runtime took the line; zero where the line bore no time stamp.
	At time.Time
}

// Done is the job's last line: it has ended by itself.
type Done struct {
	Steps    int
	Accuracy float64
	Token    string
	Weights  string
}

// Output is all that one process, or one log file, said.
type Output struct {
	Steps []Step
	// Done is nil while the job runs.
	Done *Done
	// Other holds lines that are neither, warnings of libraries for instance.
	Other []string
}

// ReadOutput reads lines to the end of r. Lines may begin with a time stamp as `kubectl logs --timestamps` writes it.
// A line that begins like a step and cannot be read as one is an error: it is torn.
func ReadOutput(r io.Reader) (Output, error) {
	var out Output
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if err := out.Add(lines.Text()); err != nil {
			return out, err
		}
	}
	if err := lines.Err(); err != nil {
		return out, fmt.Errorf("read the job's output: %w", err)
	}
	return out, nil
}

// Add takes one more line.
func (o *Output) Add(line string) error {
	at, text := splitTime(line)
	fields := strings.Fields(text)
	switch {
	case len(fields) == 0:
		return nil
	case strings.HasPrefix(fields[0], "step="):
		step, err := parseStep(fields)
		if err != nil {
			return fmt.Errorf("read line %q: %w", line, err)
		}
		step.At = at
		o.Steps = append(o.Steps, step)
	case fields[0] == "done":
		done, err := parseDone(fields[1:])
		if err != nil {
			return fmt.Errorf("read line %q: %w", line, err)
		}
		o.Done = &done
	default:
		o.Other = append(o.Other, text)
	}
	return nil
}

// Last returns the number of the newest step, 0 where there is none.
func (o *Output) Last() int {
	if len(o.Steps) == 0 {
		return 0
	}
	return o.Steps[len(o.Steps)-1].Number
}

func splitTime(line string) (time.Time, string) {
	stamp, text, found := strings.Cut(line, " ")
	if !found {
		return time.Time{}, line
	}
	at, err := time.Parse(time.RFC3339Nano, stamp)
	if err != nil {
		return time.Time{}, line
	}
	return at, text
}

func parseStep(fields []string) (Step, error) {
	values, err := pairs(fields, "step", "loss", "token", "weights")
	if err != nil {
		return Step{}, err
	}
	number, err := strconv.Atoi(values[0])
	if err != nil {
		return Step{}, fmt.Errorf("parse step: %w", err)
	}
	loss, err := strconv.ParseFloat(values[1], 64)
	if err != nil {
		return Step{}, fmt.Errorf("parse loss: %w", err)
	}
	return Step{Number: number, Loss: loss, Token: values[2], Weights: values[3]}, nil
}

func parseDone(fields []string) (Done, error) {
	values, err := pairs(fields, "steps", "accuracy", "token", "weights")
	if err != nil {
		return Done{}, err
	}
	steps, err := strconv.Atoi(values[0])
	if err != nil {
		return Done{}, fmt.Errorf("parse steps: %w", err)
	}
	accuracy, err := strconv.ParseFloat(values[1], 64)
	if err != nil {
		return Done{}, fmt.Errorf("parse accuracy: %w", err)
	}
	return Done{Steps: steps, Accuracy: accuracy, Token: values[2], Weights: values[3]}, nil
}

// pairs takes exactly the fields key=value of these keys, in this order, and returns the values.
func pairs(fields []string, keys ...string) ([]string, error) {
	if len(fields) != len(keys) {
		return nil, fmt.Errorf("%d fields, want %d", len(fields), len(keys))
	}
	values := make([]string, len(keys))
	for i, key := range keys {
		name, value, found := strings.Cut(fields[i], "=")
		if !found || name != key || value == "" {
			return nil, fmt.Errorf("field %q, want %s=", fields[i], key)
		}
		values[i] = value
	}
	return values, nil
}
