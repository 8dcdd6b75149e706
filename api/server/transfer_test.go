package server_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/api/server/fake"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
)

// pulled reads a pull to its end.
func pulled(t *testing.T, s *setup, r *apiv1.PullRequest) (last *apiv1.PulledImage, reports []*apiv1.TransferProgress,
	err error) {
	t.Helper()
	stream, err := s.Images.Pull(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return last, reports, nil
		case err != nil:
			return last, reports, err
		case m.GetPulled() != nil:
			last = m.GetPulled()
		default:
			reports = append(reports, m.GetProgress())
		}
	}
}

// The reports of each part come in order, the last one always, and then the image.
func TestAPullTellsHowFarItIs(t *testing.T) {
	s := serve(t)
	const layers = 40
	s.domain.SetRemote("big:1", fake.Remote{Layers: layers, Size: 100, Text: "again\xff"})
	got, reports, err := pulled(t, s, &apiv1.PullRequest{Reference: "big:1"})
	if err != nil || got.GetReference() != "big:1" || !got.GetNewer() || got.GetId() == "" {
		t.Fatalf("got %v, %v", got, err)
	}
	order := []string{"waiting", "downloading", "retrying", "downloading", "unpacking", "pulled"}
	last, at := map[string]string{}, map[string]int{}
	for _, r := range reports {
		i := at[r.GetPart()]
		for i < len(order) && order[i] != r.GetAction() {
			i++
		}
		if i == len(order) && r.GetAction() != "exists" {
			t.Fatalf("%v comes after %q", r, last[r.GetPart()])
		}
		if r.GetAction() == "retrying" && r.GetText() != "again\ufffd" {
			t.Errorf("the text is %q", r.GetText())
		}
		last[r.GetPart()], at[r.GetPart()] = r.GetAction(), i
	}
	done := 0
	for _, action := range last {
		if action == "pulled" || action == "exists" {
			done++
		}
	}
	if done != layers {
		t.Errorf("%d of %d layers end as they should: %v", done, layers, last)
	}
}

// Whoever goes away, or a stop, ends a pull.
func TestAPullEndsWithItsClientAndWithTheServer(t *testing.T) {
	s := serve(t)
	paced := make(chan struct{}, 100)
	s.domain.SetPace(func(ctx context.Context) {
		paced <- struct{}{}
		<-ctx.Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := s.Images.Pull(ctx, &apiv1.PullRequest{Reference: "alpine"})
	if err != nil {
		t.Fatal(err)
	}
	await.From(t, "the pull goes on", paced)
	cancel()
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	if stream, err = s.Images.Pull(t.Context(), &apiv1.PullRequest{Reference: "alpine"}); err != nil {
		t.Fatal(err)
	}
	await.From(t, "the pull goes on", paced)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("got %v", err)
	}
	if _, err := s.domain.InspectImage(t.Context(), "alpine"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("a pull that was given up made an image: %v", err)
	}
}

// What a user has for a registry reaches it and no log.
func TestCredentialsAreNotLogged(t *testing.T) {
	s := serve(t)
	const name = "registry.test/team/app:1"
	secrets := []string{"hunter2", "identity2", "bearer2", "secret"}
	wrong := []*apiv1.RegistryCredential{{Host: "registry.test", Username: "ada", Password: secrets[0],
		IdentityToken: secrets[1], RegistryToken: secrets[2]}}
	right := []*apiv1.RegistryCredential{{Host: "registry.test", Username: "ada", Password: secrets[3]}}
	if _, _, err := pulled(t, s, &apiv1.PullRequest{Reference: name, Credentials: wrong}); status.Code(err) !=
		codes.FailedPrecondition {
		t.Fatalf("got %v", err)
	}
	seen := s.domain.Seen()
	if len(seen) != 1 || seen[0].Password != secrets[0] || seen[0].IdentityToken != secrets[1] ||
		seen[0].RegistryToken != secrets[2] || seen[0].Host != "registry.test" {
		t.Fatalf("the domain got %d credentials", len(seen))
	}
	if _, _, err := pulled(t, s, &apiv1.PullRequest{Reference: name, Credentials: right}); err != nil {
		t.Fatal(err)
	}
	stream, err := s.Images.Push(t.Context(), &apiv1.PushRequest{Reference: name, Credentials: wrong})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.FailedPrecondition {
		t.Fatalf("got %v", err)
	}
	for _, c := range []*apiv1.RegistryCredential{wrong[0], right[0]} {
		if _, err := s.Images.Login(t.Context(), &apiv1.LoginRequest{Credential: c}); (err == nil) != (c == right[0]) {
			t.Fatalf("got %v", err)
		}
	}
	s.domain.Fail("LoginRegistry", errors.New("panic"))
	if _, err := s.Images.Login(t.Context(), &apiv1.LoginRequest{Credential: wrong[0]}); status.Code(err) !=
		codes.Internal {
		t.Fatalf("got %v", err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	log := s.log.String()
	for _, secret := range secrets {
		if strings.Contains(log, secret) {
			t.Errorf("the log has %q:\n%s", secret, log)
		}
	}
	for _, call := range []string{"Images/Login", "Images/Pull", "Images/Push"} {
		if !strings.Contains(log, call) {
			t.Errorf("the log does not have %s:\n%s", call, log)
		}
	}
}

// What is listed and told of images is what the domain has.
func TestImagesAreToldWhole(t *testing.T) {
	s := serve(t)
	if _, _, err := pulled(t, s, &apiv1.PullRequest{Reference: "alpine", Platform: "linux/arm/v7"}); err != nil {
		t.Fatal(err)
	}
	i, err := s.Images.Inspect(t.Context(), &apiv1.InspectImageRequest{Image: "alpine"})
	if err != nil || i.GetVariant() != "v7" || len(i.GetDigests()) != 1 {
		t.Fatalf("got %v, %v", i, err)
	}
	h, err := s.Images.History(t.Context(), &apiv1.ImageHistoryRequest{Image: "alpine"})
	if steps := h.GetSteps(); err != nil || len(steps) != 2 || steps[0].GetImage() != i.GetId() ||
		steps[1].GetSize() == 0 {
		t.Errorf("got %v, %v", h, err)
	}
	hosts, err := s.Images.Hosts(t.Context(), &apiv1.RegistryHostsRequest{Reference: "alpine"})
	if err != nil || len(hosts.GetHosts()) != 2 || !hosts.GetHosts()[0].GetMirror() {
		t.Errorf("got %v, %v", hosts, err)
	}
	u, err := s.System.DiskUsage(t.Context(), &apiv1.DiskUsageRequest{})
	if err != nil || len(u.GetImages()) != 2 || u.GetImages()[1].GetUnique()+u.GetImages()[1].GetShared() !=
		u.GetImages()[1].GetSize() {
		t.Errorf("got %v, %v", u, err)
	}
	stream, err := s.Images.Save(t.Context(), &apiv1.SaveRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a save of nothing: %v", err)
	}
	for _, filter := range []string{"until=x", "dangling=true", "label"} {
		_, err := s.Images.Prune(t.Context(), &apiv1.PruneImagesRequest{Filters: []string{filter}})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("a prune of %s: %v", filter, err)
		}
	}
}

// More changed files than fit one message come in several.
func TestVeryManyChangesCome(t *testing.T) {
	s := serve(t)
	if _, err := s.Containers.Create(t.Context(), &apiv1.CreateContainerRequest{
		Spec: &apiv1.ContainerSpec{Name: "c", Image: "busybox"}}); err != nil {
		t.Fatal(err)
	}
	changes := make([]server.FileChange, 6000)
	for i := range changes {
		changes[i] = server.FileChange{Kind: server.ChangeAdded, Path: "/" + strings.Repeat("d/", 2000) + "\xff"}
	}
	s.domain.SetChanges(changes...)
	stream, err := s.Containers.Changes(t.Context(), &apiv1.ContainerChangesRequest{Container: "c"})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n += len(m.GetChanges())
		if !strings.HasSuffix(m.GetChanges()[0].GetPath(), "/\ufffd") {
			t.Fatalf("a path ends with %q", m.GetChanges()[0].GetPath()[4000:])
		}
	}
	if n != len(changes) {
		t.Errorf("%d of %d changes came", n, len(changes))
	}
}
