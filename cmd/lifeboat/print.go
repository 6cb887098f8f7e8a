package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/lifeboat-dev/lifeboat/store"
)

// table is what people see of a result.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...any) {
	row := make([]string, len(cells))
	for i, cell := range cells {
		switch cell := cell.(type) {
		case byteSize:
			row[i] = cell.String()
		case times:
			row[i] = strconv.FormatFloat(float64(cell), 'f', 2, 64) + "×"
		case store.Count:
			row[i] = fmt.Sprintf("%d (%s)", cell.Objects, byteSize(cell.Bytes))
		case time.Time:
			row[i] = cell.Format(time.RFC3339)
		default:
			row[i] = fmt.Sprint(cell)
		}
		if row[i] == "" {
			row[i] = "-"
		}
	}
	t.rows = append(t.rows, row)
}

func (t *table) write(w io.Writer) error {
	tabs := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if t.head != nil {
		fmt.Fprintln(tabs, strings.Join(t.head, "\t"))
	}
	for _, row := range t.rows {
		fmt.Fprintln(tabs, strings.Join(row, "\t"))
	}
	return tabs.Flush()
}

// byteSize is shown with a binary unit.
type byteSize int64

// String is as "du -h" has it.
func (b byteSize) String() string {
	const units = "KMGTPE"
	if b < 1024 {
		return strconv.FormatInt(int64(b), 10) + " B"
	}
	value, unit := float64(b)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return strconv.FormatFloat(value, 'f', 1, 64) + " " + units[unit:unit+1] + "iB"
}

// times is a factor.
type times float64

// print writes a result: as JSON, or as the tables that people see, a line apart.
func (s *session) print(result any, tables ...*table) error {
	s.progress.clear()
	if s.config.output == "json" {
		encoder := json.NewEncoder(s.stdout)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(result)
	}
	for i, t := range tables {
		if i > 0 {
			fmt.Fprintln(s.stdout)
		}
		if err := t.write(s.stdout); err != nil {
			return err
		}
	}
	return nil
}

// printDone is print for what was done: --quiet spares it.
func (s *session) printDone(result any, tables ...*table) error {
	if s.config.quiet {
		return nil
	}
	return s.print(result, tables...)
}

// count is a store.Count in JSON.
type count struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

// note tells people on stderr what is no part of the result.
func (s *session) note(format string, args ...any) {
	if s.config.quiet {
		return
	}
	s.progress.clear()
	fmt.Fprintf(s.stderr, format+"\n", args...)
}
