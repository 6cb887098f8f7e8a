package criu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timerfd"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/eligible"
)

// ErrRefused marks a container that has what a dump would lose without a word. The message names it by a reason of
// v1alpha1.ConditionProtectable, with the mend.
var ErrRefused = errors.New("not dumped, for a restore would not be what it was")

// refuse is ErrRefused where tasks of the container have what CRIU dumps and restores wrongly, and what no image can mend:
// eventfds with EFD_SEMAPHORE, as eventfd(2) alone sets that flag, and CRIU does not.
func refuse(init int) error {
	found, err := (eligible.Looker{Proc: proc}).Tasks(init)
	if errors.Is(err, snapshot.ErrGone) {
		return nil // the dump will say so
	}
	if err != nil {
		return fmt.Errorf("look for what CRIU would lose: %w", err)
	}
	for _, o := range found {
		if o.Reason == v1alpha1.ReasonSemaphoreEventfd {
			return fmt.Errorf("%w: %s: %s", ErrRefused, o.Reason, o.Message)
		}
	}
	return nil
}

// obstaclesOf names, for the error of a dump that failed, what of the tasks CRIU cannot dump; empty where nothing is known.
func obstaclesOf(init int) string {
	found, err := (eligible.Looker{Proc: proc}).Tasks(init)
	if err != nil {
		return ""
	}
	var said strings.Builder
	for _, o := range found {
		fmt.Fprintf(&said, "; %s: %s", o.Reason, o.Message)
	}
	return said.String()
}

// mendTimers arms the periodic timers of a dump's images that had expired and were not read: any whose period is shorter
// than the freeze. The kernel starts such a timer anew when it is read, and tells CRIU that none is due; restored by that
// it never expires again. Their next expiration is a period after the restore. Source: timerfd_show in fs/timerfd.c,
// criu/timerfd.c.
func mendTimers(images string) error {
	path := filepath.Join(images, "files.img")
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mend timers: %w", err)
	}
	defer f.Close()
	image, err := crit.New(f, nil, "", false, false).Decode(&fdinfo.FileEntry{})
	if err != nil {
		return fmt.Errorf("mend timers: decode %s: %w", path, err)
	}
	mended := false
	for _, e := range image.Entries {
		if file, ok := e.Message.(*fdinfo.FileEntry); ok && rearm(file.GetTfd()) {
			mended = true
		}
	}
	if !mended {
		return nil
	}
	return replaceImage(path, image)
}

// rearm says whether it changed the timer.
func rearm(timer *timerfd.TimerfdEntry) bool {
	idle := timer.GetVsec() == 0 && timer.GetVnsec() == 0
	periodic := timer.GetIsec() > 0 || timer.GetInsec() > 0
	// An absolute time that has passed is armed by CRIU as now.
	if timer == nil || !idle || !periodic || timer.GetTicks() == 0 || timer.GetSettimeFlags()&unix.TFD_TIMER_ABSTIME != 0 {
		return false
	}
	timer.Vsec, timer.Vnsec = proto.Uint64(timer.GetIsec()), proto.Uint64(timer.GetInsec())
	return true
}

// replaceImage puts image in the place of the one at path.
func replaceImage(path string, image *crit.CriuImage) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "mended-")
	if err != nil {
		return fmt.Errorf("rewrite image: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(crit.New(nil, f, "", false, false).Encode(image), f.Close()); err != nil {
		return fmt.Errorf("rewrite image %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("rewrite image: %w", err)
	}
	return nil
}
