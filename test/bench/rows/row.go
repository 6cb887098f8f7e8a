// Package rows holds what the bench measures, and how it is shown: values by name, and rows that set a value against another.
package rows

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"text/tabwriter"
)

// Row is one measured value, and what it is measured against.
type Row struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Against names what gave AgainstValue, in the same unit; empty and nil where there is nothing to compare with.
	Against      string   `json:"against"`
	AgainstValue *float64 `json:"against_value"`
	// Ratio is Value / AgainstValue; nil where there is none.
	Ratio *float64 `json:"ratio"`
	// Target is what is promised, nil for a row that only informs. Met says whether it was kept; nil without a target.
	Target *Target `json:"target"`
	Met    *bool   `json:"met"`
}

// Target bounds a row's ratio; it is encoded as text, "ratio <= 1.05".
type Target struct {
	// AtLeast turns the bound from the largest ratio that is good to the smallest.
	AtLeast bool
	Bound   float64
}

// MarshalText implements encoding.TextMarshaler.
func (t Target) MarshalText() ([]byte, error) {
	relation := "<="
	if t.AtLeast {
		relation = ">="
	}
	return []byte("ratio " + relation + " " + number(t.Bound)), nil
}

// Versus sets what the row is measured against.
func (r Row) Versus(what string, value float64) Row {
	r.Against, r.AgainstValue = what, &value
	if value != 0 {
		ratio := r.Value / value
		r.Ratio = &ratio
	}
	return r
}

// Wants sets the target. A row without a ratio does not meet it.
func (r Row) Wants(t Target) Row {
	met := false
	if r.Ratio != nil {
		met = *r.Ratio <= t.Bound
		if t.AtLeast {
			met = *r.Ratio >= t.Bound
		}
	}
	r.Target, r.Met = &t, &met
	return r
}

// Encode writes the rows as a JSON array.
func Encode(w io.Writer, rows []Row) error {
	for _, r := range rows {
		if math.IsNaN(r.Value) || r.AgainstValue != nil && math.IsNaN(*r.AgainstValue) {
			return fmt.Errorf("encode row %q: nothing was measured", r.Name)
		}
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(rows); err != nil {
		return fmt.Errorf("encode rows: %w", err)
	}
	return nil
}

// Print writes the rows for a person.
func Print(w io.Writer, rows []Row) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "what\tvalue\tunit\tagainst\tvalue\tratio\ttarget\tmet")
	for _, r := range rows {
		target, met := "-", "-"
		if r.Target != nil {
			text, err := r.Target.MarshalText()
			if err != nil {
				return fmt.Errorf("print target of %s: %w", r.Name, err)
			}
			target = string(text)
		}
		if r.Met != nil {
			met = map[bool]string{true: "yes", false: "NO"}[*r.Met]
		}
		against := r.Against
		if against == "" {
			against = "-"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, number(r.Value), r.Unit,
			against, optional(r.AgainstValue), optional(r.Ratio), target, met)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	return nil
}

func optional(value *float64) string {
	if value == nil {
		return "-"
	}
	return number(*value)
}

// number shows four digits, and all those before the point.
func number(value float64) string {
	if value >= 1000 || value <= -1000 {
		return strconv.FormatFloat(value, 'f', 0, 64)
	}
	return strconv.FormatFloat(value, 'g', 4, 64)
}
