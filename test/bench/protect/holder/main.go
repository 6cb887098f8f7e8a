// Command holder is package hold.
package main

import (
	"fmt"
	"os"

	"github.com/lifeboat-dev/lifeboat/test/bench/protect/hold"
)

func main() {
	if err := hold.Run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "holder:", err)
		os.Exit(1)
	}
}
