package protect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"time"

	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/bench/protect/measured"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
	"github.com/lifeboat-dev/lifeboat/test/softdirty"
)

// vmMiB is the job in the VM, whose processor is emulated: it is some thirty times slower.
const vmMiB = 256

// measureVM measures engines in a VM whose kernel tracks writes, which this machine's does not.
func (l *lab) measureVM(ctx context.Context) ([]rows.Row, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	l.say("VM: a job of %d MiB under %d engines", vmMiB, len(measured.Engines))
	parts, err := bed.PrepareVM(ctx, l.Progress)
	if err != nil {
		return nil, err
	}
	program := filepath.Join(l.Folder, "invm")
	if err := bed.BuildBinary(ctx, "./test/bench/protect/invm", program); err != nil {
		return nil, err
	}
	var output bytes.Buffer
	status, err := softdirty.VM{Root: parts.Root, Disk: parts.Disk}.Run(ctx, softdirty.Job{
		Program: program, Args: []string{"-mib", strconv.Itoa(vmMiB)}, Output: io.MultiWriter(&output, l.Progress),
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=/tmp", "HOME=/root"},
	})
	if err != nil {
		return nil, err
	}
	if status != 0 {
		return nil, fmt.Errorf("it ended with status %d: %s", status, output.Bytes())
	}
	if err := l.takeValues(output.Bytes()); err != nil {
		return nil, err
	}
	return l.vmRows(), nil
}

// takeValues takes the lines that the program in the VM has written.
func (l *lab) takeValues(output []byte) error {
	for line := range bytes.Lines(output) {
		var v measured.Value
		if json.Unmarshal(line, &v) == nil && v.Name != "" {
			l.Add(inVM+v.Name, v.Value)
		}
	}
	if len(l.Series) == 0 {
		return errors.New("the program in the VM has measured nothing")
	}
	return nil
}

const inVM = "VM with soft-dirty, emulated, "

func (l *lab) vmRows() []rows.Row {
	in := func(engine, name string) string { return inVM + engine + ": " + name }
	row := func(engine, name, unit string, scale float64) rows.Row {
		return rows.Row{
			Name: fmt.Sprintf("%s%d MiB, %s: %s", inVM, vmMiB, engine, name), Value: l.Median(in(engine, name)) / scale, Unit: unit,
		}
	}
	plain := l.Median(in(measured.Plain, measured.Freeze))
	return []rows.Row{
		row(measured.Lazy, measured.Freeze, "s", 1).Versus(measured.Plain, plain),
		row(measured.Tracked, measured.Freeze, "s", 1).Versus(measured.Plain, plain),
		row(measured.Lazy, measured.Freeze, "s", 1).Versus(measured.Tracked, l.Median(in(measured.Tracked, measured.Freeze))),
		row(measured.Lazy, measured.Durable, "s", 1).Versus(measured.Tracked, l.Median(in(measured.Tracked, measured.Durable))),
		row(measured.Lazy, measured.WindowBytes, "MiB", mib).
			Versus(measured.Tracked, l.Median(in(measured.Tracked, measured.WindowBytes))/mib),
		row(measured.Lazy, measured.PagesRead, "pages", 1).
			Versus(measured.PagesChanged, l.Median(in(measured.Lazy, measured.PagesChanged))).Wants(rows.Target{Bound: 1.2}),
	}
}
