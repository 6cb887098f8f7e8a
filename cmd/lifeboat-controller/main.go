// Command lifeboat-controller protects labelled pods, releases them when their node goes, and creates their
// replacements.
package main

import (
	"fmt"
	"os"

	ctrl "sigs.k8s.io/controller-runtime"
)

func main() {
	if err := newCommand(os.LookupEnv).ExecuteContext(ctrl.SetupSignalHandler()); err != nil {
		fmt.Fprintln(os.Stderr, "lifeboat-controller:", err)
		os.Exit(1)
	}
}
