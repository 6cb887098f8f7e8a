package runtime

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// logEntry is a line of runc's log in its JSON format (logrus), which containerd reads the reason of a failure from.
type logEntry struct {
	Level   string `json:"level"`
	Message string `json:"msg"`
	Time    string `json:"time"`
}

// report says message where runc would: in the file of --log, in the format of --log-format, and an error also on
// stderr. A log that cannot be written is no further error: stderr has the message.
func report(call Invocation, stderr io.Writer, level, message string) {
	if level == "error" || call.Log == "" {
		_, _ = fmt.Fprintln(stderr, message)
	}
	if call.Log == "" {
		return
	}
	now := time.Now().Format(time.RFC3339)
	line := []byte(fmt.Sprintf("time=%q level=%s msg=%q", now, level, message))
	if call.LogFormat == "json" {
		var err error
		if line, err = json.Marshal(logEntry{Level: level, Message: message, Time: now}); err != nil {
			return
		}
	}
	file, err := os.OpenFile(call.Log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return
	}
	defer func() { _ = file.Close() }()
	_, _ = file.Write(append(line, '\n'))
}

// lastError is the message of the last error in runc's JSON log from offset on, empty where there is none.
func lastError(path string, offset int64) string {
	data, err := os.ReadFile(path)
	if err != nil || offset > int64(len(data)) {
		return ""
	}
	message := ""
	for line := range bytes.Lines(data[offset:]) {
		var entry logEntry
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "fatal") {
			message = strings.TrimSpace(entry.Message)
		}
	}
	return message
}

// LogTail is the last errors in the last MiB of a CRIU log, or its last lines where that names none; empty where there is
// no such log. A restore that goes round in circles until it is ended can write far more.
func LogTail(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err == nil && info.Size() > tailBytes {
		if _, err := file.Seek(-tailBytes, io.SeekEnd); err != nil {
			return ""
		}
	}
	data, err := io.ReadAll(io.LimitReader(file, tailBytes))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	var faults []string
	for _, line := range lines {
		if strings.Contains(line, "Error (") {
			faults = append(faults, line)
		}
	}
	if len(faults) == 0 {
		faults = lines
	}
	return strings.Join(faults[max(0, len(faults)-tailLines):], "\n")
}

// How much of CRIU's log is looked at, and how much an error carries along.
const (
	tailBytes = 1 << 20
	tailLines = 12
)
