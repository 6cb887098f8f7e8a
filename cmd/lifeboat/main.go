// Command lifeboat looks at what Lifeboat has stored in a bucket, checks it, and keeps it small: `lifeboat store`. It tells why
// a pod cannot be protected: `lifeboat doctor`.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
