// Package soak proves that what Lifeboat saves is what the workload had. A workload that can prove all its memory and all
// its files at any time runs in a runc container; a real agent's core (snapshot, CRIU, files, a file:// bucket) copies,
// dumps and evacuates it, and is killed at random; the test restores it as a node would, and has it prove itself.
//
// Everything follows from a seed but the moments at which things happen. A workload counts its steps outside of the state
// that is saved: a step that is lost, or done twice, shows.
package soak

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// roleVariable makes the test binary the workload in a container, or an agent.
const roleVariable = "LIFEBOAT_SOAK_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); role {
	case "":
		os.Exit(m.Run())
	case "agent":
		agent()
	default:
		work(role)
	}
}

const page = 4096

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func nap(nanoseconds int64) {
	left := unix.NsecToTimespec(nanoseconds)
	_ = unix.Nanosleep(&left, nil)
}
