package main

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// An API server that is away at the start does not end the process: the kubelet would wait longer and longer to start it.
func TestTheWebhookWaitsForTheAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		asked := 0
		client.PrependReactor("create", "selfsubjectreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
			if asked++; asked < 3 {
				return true, nil, errors.New("connection refused")
			}
			review := &authenticationv1.SelfSubjectReview{}
			review.Status.UserInfo.Username = "system:serviceaccount:lifeboat-system:lifeboat-controller"
			return true, review, nil
		})
		w := newWebhook(client, nil, &config{namespace: "lifeboat-system"})
		require.True(t, w.learnSelf(t.Context()))
		require.Equal(t, 3, asked)
		require.Equal(t, "system:serviceaccount:lifeboat-system:lifeboat-controller", w.server.Handler.Self)
		require.Error(t, w.ready(nil))
	})
}
