package criu

// Config is the CRIU configuration that Lifeboat uses for dumps and restores. CRIU reads it beside what runc asks for
// (CRIU_CONFIG_FILE), so it holds for our calls alone and not for other users of runc on the host. What runc always
// sends wins over it, so those options are flags of the call (dumpFlags). Source: crtools options in criu(8), and what
// real programs need according to docs/design.md.
const Config = `# Written by lifeboat-agent; overwritten at every start.
tcp-close
network-lock skip
ghost-limit 1073741824
force-irmap
irmap-scan-path /.
`

// dumpFlags are the options of a dump that runc sends to CRIU as false unless it is told otherwise.
var dumpFlags = []string{"--leave-running", "--file-locks", "--link-remap", "--tcp-skip-in-flight"}
