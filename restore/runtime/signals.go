package runtime

import (
	"strconv"
	"strings"
	"syscall"
)

// signalNames are the names runc and the kubelet use, without SIG. An image's STOPSIGNAL may be any of them.
var signalNames = map[string]syscall.Signal{
	"HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "QUIT": syscall.SIGQUIT, "ILL": syscall.SIGILL, "TRAP": syscall.SIGTRAP,
	"ABRT": syscall.SIGABRT, "IOT": syscall.SIGIOT, "BUS": syscall.SIGBUS, "FPE": syscall.SIGFPE, "KILL": syscall.SIGKILL,
	"USR1": syscall.SIGUSR1, "SEGV": syscall.SIGSEGV, "USR2": syscall.SIGUSR2, "PIPE": syscall.SIGPIPE,
	"ALRM": syscall.SIGALRM, "TERM": syscall.SIGTERM, "STKFLT": syscall.SIGSTKFLT, "CHLD": syscall.SIGCHLD,
	"CLD": syscall.SIGCLD, "CONT": syscall.SIGCONT, "STOP": syscall.SIGSTOP, "TSTP": syscall.SIGTSTP,
	"TTIN": syscall.SIGTTIN, "TTOU": syscall.SIGTTOU, "URG": syscall.SIGURG, "XCPU": syscall.SIGXCPU,
	"XFSZ": syscall.SIGXFSZ, "VTALRM": syscall.SIGVTALRM, "PROF": syscall.SIGPROF, "WINCH": syscall.SIGWINCH,
	"IO": syscall.SIGIO, "POLL": syscall.SIGPOLL, "PWR": syscall.SIGPWR, "SYS": syscall.SIGSYS,
}

// Real-time signals as glibc numbers them, and the highest one.
const (
	realTimeMin = 34
	realTimeMax = 64
)

// signalNumber reads a signal as `runc kill` takes it: a number, or a name with or without SIG, in any case.
func signalNumber(text string) (syscall.Signal, bool) {
	if number, err := strconv.Atoi(text); err == nil {
		return syscall.Signal(number), number > 0 && number <= realTimeMax
	}
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if signal, ok := signalNames[name]; ok {
		return signal, true
	}
	for prefix, base := range map[string]int{"RTMIN": realTimeMin, "RTMAX": realTimeMax} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		offset := 0
		if rest != "" {
			var err error
			if offset, err = strconv.Atoi(rest); err != nil {
				return 0, false
			}
		}
		number := base + offset
		return syscall.Signal(number), number >= realTimeMin && number <= realTimeMax
	}
	return 0, false
}
