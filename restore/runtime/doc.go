// Package runtime is the OCI runtime wrapper lifeboat-runtime: every call goes to the runtime beneath it (runc), and
// only these are looked at on the way:
//
//   - create, of a container (not of a sandbox): the agent is asked over its unix socket, and where a generation waits
//     for this pod, `runc restore` takes the place of `runc create`. After a failed restore the agent is asked again, a
//     few times at most, for a create that fails is the end of a pod that must not restart. Without an agent (nobody
//     listens) it is a plain create after half a minute (Times.Absent), except where a restore may be under way: for a
//     pod that names the generation it replaces, after a question that broke off, and after a failed restore, the agent
//     is waited for, until the create fails for want of time.
//     Of a pod with several containers each is restored without running an instruction and left frozen, until the agent
//     thaws them all: CRIU leaves its tasks stopped, they are frozen, and continued in there.
//   - start, of a container that create has restored: it runs already, so nothing is left to do.
//   - kill, of a container that is being evacuated or waits for the others of its pod: signals other than KILL are kept in its hold file (see
//     handover.HoldDir); they would otherwise lie pending in the frozen process and be dumped with it. The file is
//     appended to under flock(2), and only while it has a name: whoever reads and removes it under the same lock
//     misses none.
//   - delete: the container's marker and hold file go with it. One that waits for the others is ended without having run.
//
// # What holds when something dies
//
// The agent asks for a restore only under its claim, so the wrapper's part is to run one container at most once for
// each answer, and to say truly whether it runs.
//
//   - Killed before or during the restore: runc is bound to the wrapper by PR_SET_PDEATHSIG, and CRIU, which waits for
//     runc's word before it lets the tasks go, ends them. containerd takes the create as failed and calls
//     `delete --force`: that waits for both to be gone, takes away the mount they leave, and passes through.
//   - Killed between the restore and the marker: the same call ends the container; its state was on disk before the
//     tasks were let go. No start follows a create that has failed, so a missing marker does no harm.
//   - The marker cannot be written: its file is made before the restore and only gets its name afterwards, so a full
//     disk fails the create before anything runs. That is final, as is any failure but that of `runc restore` itself.
//   - Killed between the marker and the result, or the result cannot be posted: the process runs. Post is tried for a
//     few seconds, then create succeeds all the same; the agent finds the running container by itself.
//   - The restore fails or takes too long: `delete --force` is called and the sandbox gets its name back before the
//     failure is reported, so that a report of failure always means that nothing of it runs, and the next round finds
//     id, pid file and sandbox as if nothing had been. There is no next round where the report does not reach the agent,
//     which counts the attempts, where something is left, and for a container with a terminal: its console socket may be
//     used up.
//   - The time ends while a task is still in CRIU's own code (a page image cut short keeps it there for good): runc is
//     killed, and CRIU and that task may outlive it. It does not get to the program's code, for CRIU still waits for
//     runc's word, but it takes processor time until someone ends it.
//   - The machine dies: everything named here lies in /run.
//
// The restored process sees its former node's hostname until CRIU has let it go and the sandbox's name is set again,
// a few milliseconds later.
package runtime
