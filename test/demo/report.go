package demo

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Moment is a time that is written as RFC 3339 with nine digits of a second.
type Moment time.Time

const momentLayout = "2006-01-02T15:04:05.000000000Z07:00"

// MarshalJSON writes the moment, null where it was never reached.
func (m Moment) MarshalJSON() ([]byte, error) {
	if time.Time(m).IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(time.Time(m).UTC().Format(momentLayout))
}

// UnmarshalJSON reads what MarshalJSON writes.
func (m *Moment) UnmarshalJSON(data []byte) error {
	var at *time.Time
	if err := json.Unmarshal(data, &at); err != nil {
		return fmt.Errorf("parse moment: %w", err)
	}
	if at != nil {
		*m = Moment(*at)
	}
	return nil
}

// Report is build/demo/report.json.
type Report struct {
	// Pass is true only where every check of Judge held.
	Pass       bool   `json:"pass"`
	FromNode   string `json:"from_node"`
	ToNode     string `json:"to_node"`
	NoticeAt   Moment `json:"notice_at"`
	FrozenAt   Moment `json:"frozen_at"`
	DumpedAt   Moment `json:"dumped_at"`
	DurableAt  Moment `json:"durable_at"`
	ReleasedAt Moment `json:"released_at"`
	ResumedAt  Moment `json:"resumed_at"`
	Deadline   Moment `json:"deadline"`
	// FreezeSeconds is how long the job stood still: from frozen on one node to resumed on the other.
	FreezeSeconds float64 `json:"freeze_seconds"`
	// WindowBytes is what was uploaded between the notice and durable; RSSBytes what the job held in memory.
	WindowBytes    int64 `json:"window_bytes"`
	RSSBytes       int64 `json:"rss_bytes"`
	LastStepBefore int   `json:"last_step_before"`
	FirstStepAfter int   `json:"first_step_after"`
	SameToken      bool  `json:"same_token"`
	DoubleRun      bool  `json:"double_run"`
}

// Write puts the report at path, whole or not at all, and makes the folder.
func (r Report) Write(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	return writeFile(path, append(data, '\n'))
}

func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make folder of %s: %w", path, err)
	}
	partial := path + ".partial"
	if err := os.WriteFile(partial, data, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(partial, path); err != nil {
		return fmt.Errorf("publish %s: %w", path, err)
	}
	return nil
}
