package v1alpha1

// The generator lives outside go.mod: `go install sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0` puts it in
// place. manifests/manifests_test.go fails where the CRD and these types have drifted apart.
//go:generate controller-gen object crd:maxDescLen=300 paths=. output:object:dir=. output:crd:dir=../../../manifests/base
