package soak

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The places in a worker's part of the wire, a file on the host that is no part of what is saved, in words of 8 bytes.
const (
	wireStep    = iota // the worker's newest step, by the worker
	wireAsk            // which proof is wanted, by the test
	wireProved         // which one was given, by the worker
	wireResumed        // the step at which it found itself wound back, by the worker
	wirePages          // how many pages and blocks it has proved, by the worker
	wireWords
)

// woundBack in the place of the step tells the worker that it is restored from a safety dump, and has steps before it that
// were done already.
const woundBack = 1 << 62

// workers are processes of the workload: one that changes files too, and its child.
var workers = []string{"parent", "child"}

// wire is one worker's part of the file.
type wire struct {
	file *os.File
	base int64
}

func openWire(path, worker string) (*wire, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	w := &wire{file: f}
	if worker != workers[0] {
		w.base = wireWords * 8
	}
	return w, nil
}

func (w *wire) get(word int64) uint64 {
	var buf [8]byte
	must(w.file.ReadAt(buf[:], w.base+word*8))
	return binary.LittleEndian.Uint64(buf[:])
}

func (w *wire) put(word int64, value uint64) {
	var buf [8]byte
	binary.LittleEndian.PutUint64(buf[:], value)
	must(w.file.WriteAt(buf[:], w.base+word*8))
}

// worker is one process of the workload.
type worker struct {
	name  string
	wire  *wire
	step  uint64
	rng   *rand.Rand
	areas []*area
	trees []*tree
	want  [page]byte
}

const (
	seedVariable = "LIFEBOAT_SOAK_SEED"
	mostPages    = 4000
	mostAreas    = 24
	memfdPages   = 60
)

// work is the workload.
func work(name string) {
	defer func() {
		if fault := recover(); fault != nil {
			bad(fmt.Sprint(name, ": ", fault, "\n", string(debug.Stack())))
		}
	}()
	seed := must(strconv.ParseUint(os.Getenv(seedVariable), 10, 64))
	w := &worker{name: name, wire: must(openWire("/out/wire", name)), rng: rand.New(rand.NewPCG(seed, uint64(len(name))))}
	if name == workers[0] {
		for _, folder := range []string{"/data", "/dev/shm", "/scratch"} {
			w.trees = append(w.trees, newTree(folder))
		}
		w.withChild()
	} else {
		mapped(memfdPages*page, unix.MAP_SHARED, 3)
	}
	for n := range 2 {
		go beside(uint64(n), name)
	}
	for range 4 {
		go func() { // threads with a stack and a system call each
			for {
				nap(20e6)
			}
		}()
	}
	for {
		w.turn()
	}
}

// bad tells the test that something is not as it was.
func bad(fault string) {
	check(os.WriteFile("/out/bad", []byte(fault), 0o600))
	for {
		nap(1e9)
	}
}

// withChild starts the other worker, which has a memfd of this one, and a process that has ended and nobody waits for.
func (w *worker) withChild() {
	fd := must(unix.MemfdCreate("given", 0))
	check(unix.Ftruncate(fd, memfdPages*page))
	given := &area{
		kind: "memfd of two", at: mapped(memfdPages*page, unix.MAP_SHARED, fd), protect: readWrite, seed: w.rng.Uint64(),
		versions: make([]uint32, memfdPages),
	}
	given.write(0, memfdPages, 1)
	w.areas = append(w.areas, given)
	child := exec.Command("/program")
	child.Env = []string{roleVariable + "=" + workers[1], seedVariable + "=" + os.Getenv(seedVariable)}
	child.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "memfd")}
	check(child.Start())
	fork(1, false)
}

// beside is a thread that proves and rewrites memory of its own all the time, also while it is read.
func beside(n uint64, name string) {
	runtime.LockOSThread()
	a := &area{kind: "thread's", at: mapped(8*page, private, -1), protect: readWrite, seed: n + 100, versions: make([]uint32, 8)}
	for {
		for i := range a.versions {
			fill(bytesAt(a.at+uintptr(i*page), page), a.seed, i, a.versions[i]+1)
			a.versions[i]++
			nap(3e5)
		}
		want := make([]byte, page)
		for i, version := range a.versions {
			fill(want, a.seed, i, version)
			if string(want) != string(a.page(i)) {
				bad(fmt.Sprintf("%s: thread %d: page %d is not its version %d", name, n, i, version))
			}
		}
	}
}

// turn proves what is asked for, and makes a step.
func (w *worker) turn() {
	switch now := w.wire.get(wireStep); now {
	case w.step:
	case woundBack:
		w.wire.put(wireResumed, w.step)
	default:
		bad(fmt.Sprintf("%s is at step %d, and was at %d already", w.name, w.step, now))
	}
	if ask := w.wire.get(wireAsk); ask != w.wire.get(wireProved) {
		w.wire.put(wirePages, w.prove())
		w.wire.put(wireProved, ask)
	} else if w.rng.IntN(200) == 0 {
		w.prove()
	}
	if w.trees != nil && w.rng.IntN(3) == 0 {
		w.trees[w.rng.IntN(len(w.trees))].step(w.rng)
	} else {
		w.change()
	}
	w.step++
	w.wire.put(wireStep, w.step)
	nap(1e6 + w.rng.Int64N(2e6))
}

// change does something to memory, or starts a process that ends.
func (w *worker) change() {
	pages := 0
	for _, a := range w.areas {
		pages += len(a.versions)
	}
	if len(w.areas) < 6 || w.rng.IntN(8) == 0 && len(w.areas) < mostAreas && pages < mostPages {
		a := newArea(w.rng, w.rng.Uint64())
		a.write(w.rng.IntN(len(a.versions)), 1+w.rng.IntN(len(a.versions)), 1+w.rng.IntN(3))
		w.areas = append(w.areas, a)
		return
	}
	at := w.rng.IntN(len(w.areas))
	a := w.areas[at]
	n := w.rng.IntN(len(a.versions))
	count := 1 + w.rng.IntN(len(a.versions)-n)
	switch w.rng.IntN(12) {
	case 0:
		a.protect = []int{unix.PROT_NONE, unix.PROT_READ, readWrite}[w.rng.IntN(3)]
		a.open(func() {})
	case 1, 2:
		if a.forgets {
			a.forget(n, count)
		}
	case 3, 4:
		if a.moves {
			a.remap(1 + w.rng.IntN(300))
		}
	case 5:
		if a.forgets && n > 0 && n+count < len(a.versions) {
			w.areas = append(w.areas, a.split(n, count))
		}
	case 6:
		if a.kind != "memfd of two" {
			a.unmap()
			w.areas = append(w.areas[:at], w.areas[at+1:]...)
		}
	case 7:
		fork(w.rng.Int64N(5e6), true)
	default:
		a.write(n, count, 1+w.rng.IntN(5))
	}
}

// fork makes a child that shares all memory until it writes, and ends after a while. A child of Go may do nothing but raw
// system calls.
func fork(nanoseconds int64, waited bool) {
	runtime.LockOSThread()
	left := unix.NsecToTimespec(nanoseconds)
	pid, _, _ := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if pid == 0 {
		_, _, _ = syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&left)), 0, 0)
		for {
			_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	runtime.UnlockOSThread()
	if waited {
		go func() {
			var status unix.WaitStatus
			_, _ = unix.Wait4(int(pid), &status, 0, nil)
		}()
	}
}

// prove proves all memory and all files, and returns how many pages that were.
func (w *worker) prove() (pages uint64) {
	for _, a := range w.areas {
		if fault := a.prove(w.want[:]); fault != "" {
			bad(fmt.Sprintf("%s at step %d: %s", w.name, w.step, fault))
		}
		pages += uint64(len(a.versions))
	}
	for _, t := range w.trees {
		if fault := t.prove(w.want[:]); fault != "" {
			bad(fmt.Sprintf("%s at step %d: %s", w.name, w.step, fault))
		}
		for _, c := range t.files {
			pages += uint64(len(c.versions))
		}
	}
	return pages
}
