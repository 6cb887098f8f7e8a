// Package sim plays the hand-over of jobs through, from notice to continuation, by seeds: each seed is a cluster of its own in
// a synctest bubble, with faults of its choice, in which the product's own code takes part.
//
// Real are snapshot.Evacuator with its Journal (snapshot/kube), restore/controller.Reconciler and its webhook, restore/node.
// Preparer, restore/api, and store.Store over a bucket in memory. Played are the edges: the API server (api_test.go), the
// bucket's faults (agent_test.go, faults_test.go), a node's containers and CRIU (machine_test.go), its kubelet and lifeboat-runtime
// (kubelet_test.go), the owners of pods and the scheduler (owners_test.go). What has to hold is in rules_test.go.
//
// A process dies at a request to one of its edges: the request, and every later one of any of its goroutines, waits until the
// history is over. The files of its node move to another folder, so that nothing it still does is of consequence.
//
// Times of requests and faults hang on the seed, the process and how many requests it has made, not on the order in which
// goroutines run. So a seed plays the same again, as far as pauses that the product draws by lot are the same.
package sim
