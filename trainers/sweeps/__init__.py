"""One file = the sweeps of one system; each public function makes one, at any size."""
