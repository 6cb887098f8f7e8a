package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imagesTime bounds the questions about one container's image.
const imagesTime = 5 * time.Second

// images asks containerd which image a container was made from.
type images struct {
	// socket is containerd's, as this process sees it.
	socket string
}

func newImages(c *config) images {
	return images{socket: filepath.Join(c.hostRoot, c.containerdSocket)}
}

// of returns the digests by which the image of a container is known: of its configuration, and of what was pulled.
func (i images) of(ctx context.Context, containerID string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, imagesTime)
	defer cancel()
	connection, err := grpc.NewClient("unix://"+i.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("reach containerd: %w", err)
	}
	defer connection.Close()
	container, err := cri.NewRuntimeServiceClient(connection).ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: containerID})
	if err != nil {
		return nil, fmt.Errorf("ask containerd for container %s: %w", containerID, err)
	}
	digests := []string{container.GetStatus().GetImageRef(), container.GetStatus().GetImageId()}
	image, err := cri.NewImageServiceClient(connection).ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: digests[0]}})
	if err != nil {
		return nil, fmt.Errorf("ask containerd for image %s: %w", digests[0], err)
	}
	return append(append(digests, image.GetImage().GetId()), image.GetImage().GetRepoDigests()...), nil
}
