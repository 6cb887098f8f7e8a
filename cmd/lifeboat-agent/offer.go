package main

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/api/placement"
	"github.com/lifeboat-dev/lifeboat/restore/runtime/install"
)

// offerOf finds out what this node offers to generations, and what generations taken here will require.
func offerOf(ctx context.Context, c *config) (placement.Offer, error) {
	var offer placement.Offer
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return offer, fmt.Errorf("read the processor's features: %w", err)
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return offer, fmt.Errorf("read the kernel's version: %w", err)
	}
	version, err := install.CRIUVersion(ctx, c.hostRoot, c.lifeboatDir)
	if err != nil {
		return offer, err
	}
	level, set := placement.CPU(runtime.GOARCH, string(cpuinfo))
	return placement.Offer{
		Architecture: runtime.GOARCH, CPULevel: level, CPUFeatures: set,
		Kernel: placement.ParseVersion(unix.ByteSliceToString(name.Release[:])), CRIU: placement.ParseVersion(version),
	}, nil
}
