package criu

// Config is the CRIU configuration that Lifeboat uses for dumps and restores. CRIU reads it beside what runc asks for
// (CRIU_CONFIG_FILE), so it holds for our calls alone and not for other users of runc on the host. What runc always
// sends wins over it, so those options are flags of the call as well (dumpFlags). Source: crtools options in criu(8), and what
// real programs need according to docs/design.md. irmap-scan-path finds inotify watches on an overlay, whose files have no
// handles: it reads the whole root file system where a program has any (0.4 s of freeze for 100,000 files), and nothing
// elsewhere. "/." is CRIU's word for the root. The last three are dead where the runtime sends them: crun does not.
const Config = `# Written by lifeboat-agent; overwritten at every start.
tcp-close
network-lock skip
ghost-limit 1073741824
force-irmap
irmap-scan-path /.
file-locks
link-remap
skip-in-flight
`

// dumpFlags are the options of a dump that runc sends to CRIU as false unless it is told otherwise.
var dumpFlags = []string{"--leave-running", "--file-locks", "--link-remap", "--tcp-skip-in-flight"}
