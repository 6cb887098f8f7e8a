// Command lifeboat-runtime is the OCI runtime behind the RuntimeClass lifeboat: runc, whose create may become a restore.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/lifeboat-dev/lifeboat/restore/runtime"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == runtime.CountArgument {
		fmt.Fprintln(os.Stderr, runtime.Count(context.Background(), os.Args[2]))
		os.Exit(1)
	}
	options, err := runtime.HostOptions()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lifeboat-runtime:", err)
		os.Exit(1)
	}
	os.Exit(runtime.Run(context.Background(), os.Args, options))
}
