package criu

// Config is the CRIU configuration that Lifeboat uses for dumps and restores. CRIU reads it beside what runc asks for
// (CRIU_CONFIG_FILE), so it holds for our calls alone and not for other users of runc on the host. Source: crtools
// options in criu(8), and what real programs need according to FACTS.md "State outside memory".
const Config = `# Written by lifeboat-agent; overwritten at every start.
tcp-close
skip-in-flight
network-lock skip
file-locks
link-remap
ghost-limit 1073741824
force-irmap
`
