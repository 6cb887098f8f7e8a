package node

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// recordName is the file of a restoration in the folder of its pod; imagesName and workName are the folders for CRIU's images
// and logs beside it, with a folder a container each.
const recordName, imagesName, workName = "restoration.json", "images", "work"

// restoration is what this node knows of the restore of a generation in one pod, from the first container's claim until all
// run. It is on disk before what it says is done: after a crash it alone tells what CRIU may have been started on, and
// what is to be thawed or ended.
type restoration struct {
	// Task is the first container's; pod, sandbox and Checkpoint are those of all.
	Task       task  `json:"task"`
	Generation int64 `json:"generation"`
	// Containers are those of the generation, in ascending order.
	Containers []string `json:"containers"`
	// Never says that the pod's containers do not start again, but for those in Sidecars, Inits that it has init containers
	// that end.
	Never    bool     `json:"never,omitempty"`
	Sidecars []string `json:"sidecars,omitempty"`
	Inits    bool     `json:"inits,omitempty"`
	// Handed are the containers, by name, that were handed to CRIU.
	Handed map[string]handed `json:"handed,omitempty"`
	// Failed is why CRIU did not restore a container, until the Checkpoint says so.
	Failed string `json:"failed,omitempty"`
	// Fetched are the containers whose images are here.
	Fetched []string `json:"fetched,omitempty"`
	// Volumes are those whose files were replaced or are being, by name; /dev/shm is shmVolume.
	Volumes map[string]volume `json:"volumes,omitempty"`
	// Layers are the containers, by id, whose writable layers were written to.
	Layers []string `json:"layers,omitempty"`
	// Released is the step by which the containers of a pod may run: all of them are restored. Once it is set nothing is
	// restored or begun anew, and before it nothing has run.
	Released bool `json:"released,omitempty"`
	// Over says that nothing of the pod may be created in this sandbox any more.
	Over bool `json:"over,omitempty"`
	// Ending says that the containers in Doomed are to be killed and what was put into volumes is to be removed.
	Ending bool     `json:"ending,omitempty"`
	Doomed []string `json:"doomed,omitempty"`
	// Leaving says that the Checkpoint is to be told that the pod cannot begin anew.
	Leaving bool `json:"leaving,omitempty"`
}

type handed struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
}

type volume struct {
	// Source is its folder on the host.
	Source string `json:"source"`
	// Users are the containers that were handed over with it: its files are replaced no more.
	Users []string `json:"users,omitempty"`
}

// shmVolume stands for /dev/shm among Volumes: no volume has such a name.
const shmVolume = "/dev/shm"

// several tells whether containers wait for each other.
func (r *restoration) several() bool { return len(r.Containers) > 1 }

// of tells whether it is the restore of that generation in the pod of t.
func (r *restoration) of(t task, gen *v1alpha1.GenerationReference) bool {
	return r.Generation == gen.Number && r.Task.CheckpointUID == t.CheckpointUID
}

// others are the containers handed over beside the one of that name.
func (r *restoration) others(container string) []handed {
	var out []handed
	for _, name := range slices.Sorted(maps.Keys(r.Handed)) {
		if name != container {
			out = append(out, r.Handed[name])
		}
	}
	return out
}

// stays tells whether a container that has ended is not started again.
func (r *restoration) stays(container string) bool {
	return r.Never && !slices.Contains(r.Sidecars, container)
}

// folder is where this process sees the folder of a pod.
func (p *Preparer) folder(podUID string) string {
	return filepath.Join(p.options.HostRoot, p.options.WorkDir, filepath.Base(podUID))
}

// load reads the restoration of a pod; nil where there is none.
func (p *Preparer) load(podUID string) (*restoration, error) {
	path := filepath.Join(p.folder(podUID), recordName)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read restoration: %w", err)
	}
	var r restoration
	if err := json.Unmarshal(content, &r); err != nil {
		return nil, fmt.Errorf("decode restoration %s: %w", path, err)
	}
	if r.Volumes == nil {
		r.Volumes = map[string]volume{}
	}
	return &r, nil
}

// loadAll reads all restorations of this node.
func (p *Preparer) loadAll() ([]*restoration, error) {
	paths, err := filepath.Glob(filepath.Join(p.options.HostRoot, p.options.WorkDir, "*", recordName))
	if err != nil {
		return nil, fmt.Errorf("list restorations: %w", err)
	}
	var all []*restoration
	for _, path := range paths {
		r, err := p.load(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		if r != nil {
			all = append(all, r)
		}
	}
	return all, nil
}

func (p *Preparer) save(r *restoration) error {
	content, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode restoration: %w", err)
	}
	if err := renameio.WriteFile(filepath.Join(p.folder(r.Task.PodUID), recordName), content, 0o600); err != nil {
		return fmt.Errorf("record restoration: %w", diskFull(err))
	}
	return nil
}

// errNoRestoration says that there is nothing (any more) to record something on.
var errNoRestoration = errors.New("no restore is under way in this pod")

// edit changes the restoration of a pod on disk. An error of change leaves it as it is.
func (p *Preparer) edit(podUID string, change func(*restoration) error) (*restoration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := p.load(podUID)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, errNoRestoration
	}
	if err := change(r); err != nil {
		return nil, err
	}
	return r, p.save(r)
}

// begin records that the generation is being restored in the pod of t, or goes on with the restore that is under way. Files
// that an earlier one has put into the pod's volumes stay known. From then on Sweep leaves the folder alone.
func (p *Preparer) begin(t task, gen *v1alpha1.GenerationReference, containers []string) (*restoration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := p.load(t.PodUID)
	if err != nil {
		return nil, err
	}
	dir, known := p.folder(t.PodUID), r != nil
	if known && r.several() && len(r.Handed) > 0 && !r.of(t, gen) {
		return nil, fmt.Errorf("begin with generation %d: containers that were restored from generation %d have not been ended", gen.Number, r.Generation)
	}
	if r == nil || !r.of(t, gen) {
		fresh := &restoration{Task: t, Generation: gen.Number, Containers: containers, Volumes: map[string]volume{}}
		if r != nil {
			fresh.Layers = r.Layers
			for name, v := range r.Volumes {
				fresh.Volumes[name] = volume{Source: v.Source}
			}
			if err := os.RemoveAll(filepath.Join(dir, imagesName)); err != nil {
				return nil, fmt.Errorf("remove images of another generation: %w", err)
			}
		}
		r = fresh
	}
	r.Never, r.Sidecars, r.Inits = t.pod.never, t.pod.sidecars, len(t.pod.inits) > 0
	if err = makeFolders(dir, t.Container, r); err != nil {
		err = fmt.Errorf("make folder for images: %w", diskFull(err))
	} else {
		err = p.save(r)
	}
	if err != nil && !known {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		return nil, err
	}
	p.begun[filepath.Base(t.PodUID)] = true
	return r, nil
}

// makeFolders makes the folders that the restore of a container needs, without anything of an attempt that an earlier life of the
// agent left half way.
func makeFolders(dir, container string, r *restoration) error {
	stale := []string{filepath.Join(workName, container)}
	for _, name := range r.Containers {
		if !slices.Contains(r.Fetched, name) {
			stale = append(stale, filepath.Join(imagesName, name))
		}
	}
	for _, name := range stale {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return errors.Join(os.MkdirAll(filepath.Join(dir, imagesName), 0o700), os.MkdirAll(filepath.Join(dir, workName, container), 0o700))
}

// reply is the answer that hands the container of t to CRIU.
func (p *Preparer) reply(t task, r *restoration) handover.PrepareReply {
	dir := filepath.Join(p.options.WorkDir, filepath.Base(t.PodUID))
	reply := handover.PrepareReply{
		Action: handover.ActionRestore, CRIUConfig: p.options.CRIUConfig,
		ImagePath: filepath.Join(dir, imagesName, t.Container), WorkPath: filepath.Join(dir, workName, t.Container),
	}
	if r.several() {
		reply.Action = handover.ActionRestoreHeld
	}
	return reply
}

// handOver records that the container of t is CRIU's from here on, with the volumes that it sees.
func (p *Preparer) handOver(t task, mounted []string) error {
	_, err := p.edit(t.PodUID, func(r *restoration) error {
		if r.Over || r.Ending || r.Released {
			return fmt.Errorf("pod %s/%s: %w", t.Namespace, t.Pod, errOver)
		}
		if r.Handed == nil {
			r.Handed = map[string]handed{}
		}
		r.Handed[t.Container] = handed{ID: t.ContainerID, Time: time.Now()}
		for _, name := range mounted {
			v := r.Volumes[name]
			if !slices.Contains(v.Users, t.Container) {
				v.Users = append(v.Users, t.Container)
			}
			r.Volumes[name] = v
		}
		return nil
	})
	return err
}

// takeBack records that the container of t did not come to life, and why where the Checkpoint does not say so yet, and removes
// its images: the next try fetches them anew.
func (p *Preparer) takeBack(t task, cause string) error {
	_, err := p.edit(t.PodUID, func(r *restoration) error {
		delete(r.Handed, t.Container)
		r.Failed = cmp.Or(cause, r.Failed)
		r.Fetched = slices.DeleteFunc(r.Fetched, func(name string) bool { return name == t.Container })
		return nil
	})
	if errors.Is(err, errNoRestoration) {
		return nil
	}
	return errors.Join(err, p.dropImages(t.PodUID, t.Container))
}

// dropImages removes what was fetched of a container's images.
func (p *Preparer) dropImages(podUID, container string) error {
	if err := os.RemoveAll(filepath.Join(p.folder(podUID), imagesName, filepath.Base(container))); err != nil {
		return fmt.Errorf("remove fetched images: %w", err)
	}
	return nil
}

// drop forgets the restoration of a pod, with all that was fetched for it.
func (p *Preparer) drop(podUID string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.begun, filepath.Base(podUID))
	delete(p.missed, podUID)
	if err := os.RemoveAll(p.folder(podUID)); err != nil {
		return fmt.Errorf("remove fetched images: %w", err)
	}
	return nil
}
