package snapshot

// Ways of merging layers, for tests of each.
var (
	MergeDetached = mergeDetached
	MergeAside    = mergeAside
)
