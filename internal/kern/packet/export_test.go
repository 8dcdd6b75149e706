package packet

// Claims is the filter of [InUse].
var Claims = claims
